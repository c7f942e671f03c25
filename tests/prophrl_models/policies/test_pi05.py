"""pi0.5 behind the common interface: training, sampling, log-probabilities, padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prophrl_models.policies import flow
from prophrl_models.policies.interface import Cond, ObservationBatch, TrainingBatch
from prophrl_models.policies.pi05 import Pi05Policy
from tests.helpers import pi05 as helper


@pytest.fixture(scope="module")
def policy() -> Pi05Policy:
    return helper.policy()


def batch(policy: Pi05Policy, obs: ObservationBatch, noise_samples: int = 1) -> TrainingBatch:
    g = torch.Generator().manual_seed(7)
    actions = policy.spec.action_scaling.restore(torch.randn(len(obs), policy.spec.chunk, 7, generator=g))
    return TrainingBatch(policy.prepare(obs), actions, torch.ones(len(obs)), noise_samples=noise_samples)


@pytest.mark.timeout(600)  # seconds of work, minutes on a machine that does ten other things
def test_overfitting_one_batch_makes_the_sampler_reproduce_its_actions() -> None:
    torch.manual_seed(0)
    sizes = helper.config(prompt_tokens=40, state_in_prompt=False)
    policy = Pi05Policy(helper.spec(chunk=4), sizes, helper.tokenizer_json())
    obs, steps = helper.observations(2), 220
    rows = batch(policy, obs, noise_samples=16)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-2, weight_decay=0.0, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps, pct_start=0.2)
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimiser.zero_grad()
        policy.sft_loss(rows, g)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    policy.eval()
    wanted = policy.spec.action_scaling.normalise(rows.actions_BCD)
    assert (wanted[0] - wanted[1]).square().mean().sqrt() > 1.0  # the two rows have to be told apart
    for seed in range(3):
        chunk, trace = policy.sample_actions(obs, generator=torch.Generator().manual_seed(seed))
        error = (policy.spec.action_scaling.normalise(chunk) - wanted).square().mean().sqrt()
        assert error < 0.1 * wanted.square().mean().sqrt()
        assert trace.actions_BCD[..., 7:].abs().max() < 1e-5


def test_training_target_is_the_velocity_at_the_label_the_sampler_asks_with(
    policy: Pi05Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One convention: at label 1 the state is pure noise, and walking along minus the target ends at the action."""
    seen: list[tuple[Tensor, Tensor]] = []
    velocity = policy.velocity

    def recorded(cond: Cond, x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.clone(), t.clone()))
        return velocity(cond, x, t)

    monkeypatch.setattr(policy, "velocity", recorded)
    obs = helper.observations(2)
    with torch.no_grad():
        cond = policy.encode(obs)
    noise = torch.randn(2, *policy.chain_shape)
    policy.sample_actions(cond, noise)
    assert torch.equal(seen[0][0], noise) and torch.equal(seen[0][1], torch.ones(2))
    torch.testing.assert_close(torch.stack([t[0] for _, t in seen]), 1.0 - torch.arange(10) / 10)

    seen.clear()
    rows = batch(policy, obs)
    monkeypatch.setattr(flow, "sample_times", lambda count, *_: torch.ones(count))
    g = torch.Generator().manual_seed(3)
    policy.flow_errors(cond, rows.actions_BCD, 1, 0.0, g)
    drawn = torch.randn(2, *policy.chain_shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(seen[0][0], drawn)


def test_velocity_does_not_read_the_observation_again(policy: Pi05Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        cond = policy.encode(helper.observations(2))
    for part in ("vision", "prefix", "projector"):
        monkeypatch.setattr(getattr(policy, part), "forward", lambda *_: pytest.fail("the prefix ran again"))
    chunk, trace = policy.sample_actions(cond, mode="sde", generator=torch.Generator().manual_seed(0))
    assert chunk.shape == (2, 6, 7)
    policy.log_prob(cond, trace)


def test_cache_has_the_promised_layout_and_rows_can_be_repeated(policy: Pi05Policy) -> None:
    c = policy.pi05
    with torch.no_grad():
        cond = policy.encode(helper.observations(2))
        N = c.image_tokens + c.prompt_tokens
        assert cond.extras["cache"].shape == (2, c.depth, 2, c.kv_heads, N, c.head_dim)
        assert cond.extras["valid"].shape == (2, N) and cond.vector_BE.dtype == torch.float32
        x, t = torch.randn(2, *policy.chain_shape), torch.tensor([0.9, 0.2])
        single = policy.velocity(cond, x, t)
        repeated = policy.velocity(cond.repeat(3), x.repeat_interleave(3, 0), t.repeat_interleave(3))
    torch.testing.assert_close(repeated, single.repeat_interleave(3, 0), atol=1e-5, rtol=1e-5)


def test_noise_and_chain_cover_the_padding_but_log_probabilities_do_not(policy: Pi05Policy) -> None:
    chunk, trace = policy.sample_actions(
        helper.observations(2), mode="sde", noise_level=0.5, generator=torch.Generator().manual_seed(1)
    )
    assert trace.chain_BKCD.shape == (2, 11, 6, 32) and trace.logp_BKCD.shape == (2, 10, 6, 7)
    assert chunk.shape == (2, 6, 7)
    torch.testing.assert_close(chunk, policy.spec.action_scaling.restore(trace.actions_BCD[..., :7]))
    steps = trace.chain_BKCD.diff(dim=1)
    assert steps[..., 7:].std() > 0.05  # the padding is denoised with noise of its own
    assert torch.equal(trace.logp_BKCD, policy.environment(_recomputed(policy, helper.observations(2), trace)))


def test_padding_walks_to_zero_whatever_the_weights_say(policy: Pi05Policy) -> None:
    """So the likelihood of the whole chain depends on the weights through the environment's numbers alone."""
    other = helper.policy(seed=5)
    x, t = torch.randn(2, *policy.chain_shape), torch.tensor([0.8, 0.1])
    with torch.no_grad():
        first, second = (p.velocity(p.encode(helper.observations(2)), x, t) for p in (policy, other))
    assert torch.equal(first[..., 7:], second[..., 7:]) and not torch.allclose(first[..., :7], second[..., :7])
    noise = torch.randn(2, 6, 25)
    at = flow.interpolate(torch.zeros_like(noise), noise, t)
    padded = torch.cat([torch.zeros(2, 6, 7), at], 2)
    with torch.no_grad():
        v = policy.velocity(policy.encode(helper.observations(2)), padded, t)
    torch.testing.assert_close(v[..., 7:], flow.velocity_target(torch.zeros_like(noise), noise))


def test_padding_still_reaches_the_network_as_in_the_published_model(policy: Pi05Policy) -> None:
    with torch.no_grad():
        cond = policy.encode(helper.observations(2))
        x, t = torch.randn(2, *policy.chain_shape), torch.tensor([0.8, 0.1])
        moved = torch.cat([x[..., :7], x[..., 7:] + 1.0], 2)
        difference = policy.velocity(cond, moved, t) - policy.velocity(cond, x, t)
        whole = policy.network_velocity(cond, x, t)
    assert difference[..., :7].abs().max() > 1e-3
    assert whole.shape == x.shape and torch.equal(whole[..., :7], policy.velocity(cond, x, t)[..., :7])


def _recomputed(policy: Pi05Policy, obs: ObservationBatch, trace: flow.Trace) -> Tensor:
    """Log-probabilities step by step, each velocity on the batch that the sampler used."""
    logp = []
    with torch.no_grad():
        cond = policy.encode(obs)
        for k in range(trace.num_steps):
            x = trace.chain_BKCD[:, k]
            v = policy.velocity(cond, x, trace.t_K[k].expand(len(x)))
            mean = flow.sde_mean(x, v, trace.t_K[k], trace.std_K[k], trace.num_steps)
            logp.append(flow.gaussian_logp(trace.chain_BKCD[:, k + 1], mean, trace.std_K[k]))
    return torch.stack(logp, 1)


def test_ratio_is_exactly_one_on_the_sampled_batch_and_one_to_rounding_when_steps_are_folded(
    policy: Pi05Policy,
) -> None:
    """Bit for bit on the same batch shape; folded into one batch, matrix products may block their sums otherwise."""
    obs = helper.observations(3)
    _, trace = policy.sample_actions(obs, mode="sde", noise_level=0.5, generator=torch.Generator().manual_seed(2))
    exact = policy.environment(_recomputed(policy, obs, trace))
    assert torch.equal((exact - trace.logp_BKCD).exp(), torch.ones_like(exact))
    folded = policy.log_prob(obs, trace)
    assert folded.requires_grad
    assert torch.equal(folded, policy.log_prob(obs, trace))
    ratio = (folded - trace.logp_BKCD).sum(1).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-3, rtol=0)


def test_gradients_reach_expert_language_and_vision_through_loss_and_log_prob(policy: Pi05Policy) -> None:
    obs = helper.observations(2)
    _, trace = policy.sample_actions(obs, mode="sde", generator=torch.Generator().manual_seed(4))
    idle = {id(p) for p in policy.prefix.idle_parameters()}
    for scalar in (lambda: policy.sft_loss(batch(policy, obs))["loss"], lambda: policy.log_prob(obs, trace).sum()):
        policy.zero_grad()
        scalar().backward()
        for name, parameter in policy.named_parameters():
            if id(parameter) in idle:
                assert parameter.grad is None and not parameter.requires_grad, name
            elif not name.endswith("k_proj.bias"):  # a key bias shifts all scores of a query alike: no effect
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    policy.zero_grad()
    policy.requires_grad_(False).requires_grad_(True)
    assert all(parameter.requires_grad != (id(parameter) in idle) for parameter in policy.parameters())


def test_recomputing_activations_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        policy = helper.policy().train()
        if recompute:
            policy.enable_gradient_checkpointing()
        policy.sft_loss(batch(policy, helper.observations(2)), torch.Generator().manual_seed(0))["loss"].backward()
        gradients.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_trainer_finds_blocks_head_and_adapter_targets(policy: Pi05Policy) -> None:
    c = policy.pi05
    assert len(policy.blocks()) == c.vision_depth + 2 * c.depth
    head = policy.head_parameters()
    assert {n.split(".")[0] for n in head} == {
        "expert",
        "action_in_proj",
        "action_out_proj",
        "time_mlp_in",
        "time_mlp_out",
    }
    targets = policy.lora_targets()
    assert len(targets) == c.vision_depth * 6 + (c.depth - 1) * 7 + 2
    assert f"prefix.layers.{c.depth - 1}.self_attn.k_proj" in targets
    assert f"prefix.layers.{c.depth - 1}.mlp.up_proj" not in targets


def test_adapters_train_with_the_backbone_frozen() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    policy = helper.policy().train()
    head = set(policy.head_parameters())
    policy.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=policy.lora_targets()), policy)
    for name, parameter in policy.named_parameters():
        if name in head:
            parameter.requires_grad_(True)
    policy.sft_loss(batch(policy, helper.observations(2)))["loss"].backward()
    trained = {n for n, p in policy.named_parameters() if p.requires_grad and p.grad is not None}
    assert trained == {n for n, p in policy.named_parameters() if p.requires_grad}
    assert any("lora_A" in n and n.startswith("vision.") for n in trained) and head <= trained


def test_picture_instruction_and_state_all_change_the_chunk(policy: Pi05Policy) -> None:
    obs = helper.observations(1)
    base = policy.act(obs)
    for other in (
        replace(obs, image_BHW3=255 - obs.image_BHW3),
        replace(obs, instruction_B=("fold the towel",)),
        replace(obs, state_B7=obs.state_B7 + 0.1),
    ):
        assert (policy.act(other) - base).abs().max() > 1e-6
    assert torch.equal(policy.act(obs), base)


def test_rows_of_a_batch_do_not_mix(policy: Pi05Policy) -> None:
    obs = helper.observations(3)
    last = ObservationBatch(obs.image_BHW3[2:], obs.state_B7[2:], obs.instruction_B[2:])
    torch.testing.assert_close(policy.act(obs)[2:], policy.act(last), atol=1e-5, rtol=1e-4)


def test_velocity_works_under_autocast_with_time_and_output_in_single_precision(policy: Pi05Policy) -> None:
    obs = helper.observations(2)
    x, t = torch.randn(2, *policy.chain_shape), torch.tensor([1.0, 0.4])
    with torch.no_grad():
        plain = policy.velocity(policy.encode(obs), x, t)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = policy.velocity(policy.encode(obs), x, t)
    assert mixed.dtype == torch.float32
    assert ((mixed - plain).norm() / plain.norm()).item() < 0.03


def test_more_action_numbers_than_the_model_pads_to_are_refused() -> None:
    with pytest.raises(ValueError, match="denoises 4 numbers a step, the spec has 7"):
        Pi05Policy(helper.spec(), helper.config(action_width=4), helper.tokenizer_json())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_encoder_and_velocity_compile_to_one_graph_each_with_the_same_result(policy: Pi05Policy, backend: str) -> None:
    inputs = policy.prepare(helper.observations(2))
    with torch.no_grad():
        cond = torch.compile(policy.embed, fullgraph=True, dynamic=False, backend=backend)(inputs)
        torch.testing.assert_close(cond.extras["cache"], policy.embed(inputs).extras["cache"], atol=1e-4, rtol=1e-4)
        compiled = torch.compile(policy.velocity, fullgraph=True, dynamic=False, backend=backend)
        for t in (1.0, 0.3):
            x, t_B = torch.randn(2, *policy.chain_shape), torch.full((2,), t)
            torch.testing.assert_close(compiled(cond, x, t_B), policy.velocity(cond, x, t_B), atol=1e-4, rtol=1e-4)
