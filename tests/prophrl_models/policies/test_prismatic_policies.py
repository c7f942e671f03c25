"""VLA-Adapter and OpenVLA-OFT behind the common interface."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.policies import load
from prophrl_models.policies.bridge_head import KEYS
from prophrl_models.policies.interface import Cond, Inputs, ObservationBatch, TrainingBatch, UnknownInstruction
from prophrl_models.policies.openvla_oft import OpenVlaOftPolicy
from prophrl_models.policies.prismatic_policy import PrismaticPolicy
from prophrl_models.policies.vla_adapter import VlaAdapterConfig, VlaAdapterPolicy
from prophrl_models.training.checkpoint import save_policy
from tests.helpers import prismatic_policies as tiny

kinds = pytest.mark.parametrize("kind", tiny.KINDS)


@pytest.fixture(scope="module")
def policies() -> dict[str, PrismaticPolicy]:
    return {kind: tiny.policy(kind) for kind in tiny.KINDS}


def batch(policy: PrismaticPolicy, rows: int, noise_samples: int = 1) -> TrainingBatch:
    g = torch.Generator().manual_seed(8)
    scaling = policy.spec.action_scaling
    actions = scaling.restore(torch.randn(rows, 6, 7, generator=g).cumsum(1) / 3)
    return TrainingBatch(
        policy.prepare(tiny.observations(rows)), actions, torch.ones(rows), noise_samples=noise_samples
    )


@kinds
def test_tiny_configurations_stay_under_their_size(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    assert 50_000 < sum(p.numel() for p in policies[kind].parameters()) < 300_000


@kinds
def test_prepare_gives_small_integers_that_can_be_cached(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    inputs = policies[kind].prepare(tiny.observations(3))
    assert inputs.image.shape == (3, 3, 28, 28) and inputs.image.dtype is torch.uint8
    assert inputs.text.shape == (3, 24) and (inputs.text >= -1).all() and (inputs.text[:, 0] >= 0).all()
    assert inputs.state_B7.shape == (3, 7)


@kinds
def test_a_row_does_not_depend_on_its_neighbours(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    """Prompts of different lengths in one batch: padding and order leave no trace."""
    policy, obs = policies[kind], tiny.observations(3)
    with torch.no_grad():
        together = policy.encode(obs)
        for row in range(3):
            alone = policy.encode(
                ObservationBatch(obs.image_BHW3[row : row + 1], obs.state_B7[row : row + 1], (tiny.KNOWN[row],))
            )
            torch.testing.assert_close(alone.tokens_BNE[0], together.tokens_BNE[row], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(alone.vector_BE[0], together.vector_BE[row], atol=1e-4, rtol=1e-4)


@kinds
def test_picture_words_and_state_all_reach_the_condition(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy, obs = policies[kind], tiny.observations(1)
    base = policy.encode(obs).tokens_BNE
    changed = [
        replace(obs, image_BHW3=255 - obs.image_BHW3),
        replace(obs, instruction_B=(tiny.KNOWN[1],)),
        replace(obs, state_B7=obs.state_B7 + 0.1),
    ]
    for other in changed:
        assert (policy.encode(other).tokens_BNE - base).abs().max() > 1e-3


def test_adapter_reads_the_published_windows_of_every_layer() -> None:
    """Token by token: a query's state must equal that of a plain run of the language model over the same tokens."""
    policy = tiny.policy("vla_adapter")  # its own: asking transformers for hidden states leaves hooks behind
    assert isinstance(policy, VlaAdapterPolicy)
    c, inputs = policy.architecture, policy.prepare(tiny.observations(1))
    P, Q, E = c.vision.tokens, c.queries, c.language.width
    ids = inputs.text[0][inputs.text[0] >= 0]
    with torch.no_grad():
        picture = policy.backbone.image_tokens(inputs.image)[0]
        words = policy.backbone.language.embed_tokens(ids)
        row = torch.cat([words[:1], picture, words[1:], policy.action_queries.weight])
        output = policy.backbone.language(inputs_embeds=row[None], output_hidden_states=True, use_cache=False)
        cond = policy.embed(inputs).tokens_BNE[0].reshape(c.language.depth, P + Q + 1, E)
    states = output.hidden_states
    assert len(states) == c.language.depth + 1
    first_query = 1 + P + len(ids) - 1
    for layer in range(c.language.depth):
        published = states[layer + 1][0]
        torch.testing.assert_close(cond[layer, :P], published[:P], atol=1e-4, rtol=1e-4)
        window = published[first_query - 1 : first_query - 1 + Q]
        torch.testing.assert_close(cond[layer, P : P + Q], window, atol=1e-4, rtol=1e-4)


def test_oft_reads_the_states_before_the_action_tokens(policies: dict[str, PrismaticPolicy]) -> None:
    policy = policies["openvla_oft"]
    assert isinstance(policy, OpenVlaOftPolicy)
    c, inputs = policy.architecture, policy.prepare(tiny.observations(1))
    ids = inputs.text[0][inputs.text[0] >= 0]
    assert ids[0] == c.first and ids[-1] == c.suffix[0]
    with torch.no_grad():
        picture = policy.backbone.image_tokens(inputs.image)[0]
        words = policy.backbone.language.embed_tokens(ids)
        state = policy.proprio(policy.network_state(inputs.state_B7, 8))
        stop = policy.backbone.language.embed_tokens(torch.tensor([c.stop]))
        row = torch.cat([words[:1], picture, state, words[1:], torch.zeros(42, c.language.width), stop])
        N = len(row)
        everything = torch.zeros(1, 1, N, N)  # an additive mask of zeros: stock Llama looks both ways
        last = policy.backbone.language(inputs_embeds=row[None], attention_mask=everything, use_cache=False)
        cond = policy.embed(inputs).tokens_BNE[0].reshape(42, -1)
    torch.testing.assert_close(cond, last.last_hidden_state[0, N - 44 : N - 2], atol=1e-4, rtol=1e-4)


@kinds
def test_eight_published_state_inputs_are_seven_of_ours_and_a_mirrored_finger(
    policies: dict[str, PrismaticPolicy], kind: str
) -> None:
    policy = policies[kind]
    state = torch.tensor([[-0.55, 0.1, 0.2, 3.1, 0.0, 1.57, 1.0]])
    expected = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0]])
    torch.testing.assert_close(policy.network_state(state, 8), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(policy.network_state(state, 7), expected[:, :7], atol=1e-5, rtol=0)
    assert policy.network_state(state + 1e6, 8).abs().max() == 5.0
    with pytest.raises(ValueError, match="fit 7 and 8"):
        policy.network_state(state, 9)


@kinds
def test_first_recompute_of_log_prob_gives_ratio_one(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy, obs = policies[kind], tiny.observations(3)
    _, trace = policy.sample_actions(obs, mode="sde", noise_level=0.5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ratio = (policy.log_prob(obs, trace) - trace.logp_BKCD).sum(1).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=2e-3, rtol=0)


@kinds
def test_ratio_is_exactly_one_on_the_same_batch_shape(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy, obs = policies[kind], tiny.observations(2)
    _, trace = policy.sample_actions(obs, mode="sde", num_steps=1, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(policy.log_prob(obs, trace), trace.logp_BKCD)


@kinds
def test_encoder_and_projection_run_once_for_all_steps(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy = policies[kind]
    calls = {"embed": 0, "project": 0, "velocity": 0}

    class Counted:
        def __init__(self, name: str, call: Any) -> None:
            self.name, self.call = name, call

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls[self.name] += 1
            return self.call(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "embed", Counted("embed", policy.embed))
        patch.setattr(policy.head, "project", Counted("project", policy.head.project))
        patch.setattr(policy, "velocity", Counted("velocity", policy.velocity))
        _, trace = policy.sample_actions(tiny.observations(2), mode="sde")
        assert calls == {"embed": 1, "project": 1, "velocity": 10}
        policy.log_prob(tiny.observations(2), trace)
        assert calls == {"embed": 2, "project": 2, "velocity": 11}


@kinds
def test_a_stored_raw_condition_trains_all_of_the_head(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy, obs = policies[kind], tiny.observations(2)
    with torch.no_grad():
        cond = policy.encode(obs)
    assert KEYS not in cond.extras
    _, trace = policy.sample_actions(cond, mode="sde")
    policy.zero_grad()
    policy.log_prob(cond, trace).sum().backward()
    silent = [n for n, p in policy.head.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    assert all(p.grad is None for p in policy.backbone.parameters())


@kinds
def test_gradients_reach_every_parameter_from_loss_and_log_prob(
    policies: dict[str, PrismaticPolicy], kind: str
) -> None:
    policy = policies[kind]
    _, trace = policy.sample_actions(tiny.observations(2), mode="sde")
    for loss in (policy.sft_loss(batch(policy, 2, 2))["loss"], policy.log_prob(tiny.observations(2), trace).sum()):
        policy.zero_grad()
        loss.backward()
        silent = {n for n, p in policy.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
        assert silent == set()
    policy.zero_grad()


@kinds
def test_over_fitted_batch_comes_back_from_the_ode(kind: str) -> None:
    torch.manual_seed(1)
    policy = tiny.policy(kind, stirred=False).train()
    rows = batch(policy, 2, noise_samples=8)
    steps, rate = {"vla_adapter": (140, 8e-3), "openvla_oft": (200, 6e-3)}[kind]
    optimiser = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimiser.zero_grad()
        policy.sft_loss(rows, generator)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    policy.eval()
    for num_steps in (10, 4):
        chunk, _ = policy.sample_actions(
            policy.embed(rows.inputs), num_steps=num_steps, generator=torch.Generator().manual_seed(num_steps)
        )
        error = policy.spec.action_scaling.normalise(chunk) - policy.spec.action_scaling.normalise(rows.actions_BCD)
        size = policy.spec.action_scaling.normalise(rows.actions_BCD)
        assert error.square().mean().sqrt() < 0.15 * size.square().mean().sqrt()


@kinds
def test_unknown_instructions_are_refused(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy = policies[kind]
    with pytest.raises(UnknownInstruction, match="was not trained on 'stack the cube'"):
        policy.prepare(replace(tiny.observations(1), instruction_B=("stack the cube",)))


@kinds
def test_build_from_config_and_assets_gives_the_same_network(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy = policies[kind]
    architecture = json.loads(json.dumps(policy.config()))
    other = load.builder(kind)(policy.spec, architecture, policy.assets())
    other.load_state_dict(policy.state_dict(), strict=True)
    obs = tiny.observations(2)
    assert torch.equal(other.eval().act(obs), policy.act(obs))
    assert other.config() == policy.config()


@kinds
def test_a_checkpoint_folder_keeps_weights_precision_and_tokenizer(tmp_path: Path, kind: str) -> None:
    policy = tiny.policy(kind, dtype="bfloat16")
    accumulator = StatisticsAccumulator(tuple("abcdefg"))
    accumulator.add(np.random.default_rng(0).normal(size=(50, 7)))
    statistics = accumulator.result()
    normalisation = Normalisation(statistics, statistics, "0" * 64)
    save_policy(tmp_path / "policy", policy, normalisation, {"dataset_hash": "0" * 64, "calibration_ids": []})
    assert (tmp_path / "policy/assets/tokenizer.json").read_bytes() == policy.assets()["tokenizer.json"]
    other = load.load_policy(tmp_path / "policy")
    assert {n: p.dtype for n, p in other.named_parameters()} == {n: p.dtype for n, p in policy.named_parameters()}
    obs = tiny.observations(2)
    assert torch.equal(other.act(obs), policy.act(obs))


@kinds
def test_gradient_checkpointing_and_low_rank_adapters_fit(kind: str) -> None:
    """Gradient checkpointing gives equal gradients; low-rank adapters find their layers and leave the head alone."""
    from peft import LoraConfig, inject_adapter_in_model

    policy = tiny.policy(kind).train()
    rows = batch(policy, 2)

    def gradients(made: PrismaticPolicy) -> dict[str, Tensor]:
        made.zero_grad()
        made.sft_loss(rows, torch.Generator().manual_seed(0))["loss"].backward()
        return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}

    plain = gradients(policy)
    policy.enable_gradient_checkpointing()
    recomputed = gradients(policy)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-5, rtol=1e-4)

    adapted = tiny.policy(kind).train()
    before = adapted.act(tiny.observations(2))
    count = len(adapted.lora_targets())
    inject_adapter_in_model(LoraConfig(r=2, target_modules=adapted.lora_targets()), adapted)
    lora = [n for n, _ in adapted.named_parameters() if "lora_A" in n]
    assert len(lora) == count and all(n.startswith("backbone.") for n in lora)
    assert torch.equal(adapted.act(tiny.observations(2)), before)
    trained = {n for n, p in adapted.named_parameters() if n.startswith(adapted.head_prefixes)}
    assert trained == set(adapted.head_parameters())


@kinds
def test_the_velocity_compiles_into_one_graph(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy = policies[kind]
    with torch.no_grad():
        cond = policy.ready(policy.encode(tiny.observations(2)))
        x, t = torch.randn(2, 6, 7), torch.tensor([0.3, 0.9])
        compiled = torch.compile(policy.velocity, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(cond, x, t), policy.velocity(cond, x, t))


@pytest.mark.slow
@kinds
def test_embedding_compiles_into_one_graph(policies: dict[str, PrismaticPolicy], kind: str) -> None:
    policy, obs = policies[kind], tiny.observations(2)
    inputs = policy.prepare(obs)

    def tokens(image: Tensor, state: Tensor, text: Tensor) -> Tensor:
        return policy.embed(Inputs(image, state, text)).tokens_BNE

    with torch.no_grad():
        compiled = torch.compile(tokens, backend="eager", fullgraph=True)
        expected: Cond = policy.embed(inputs)
        torch.testing.assert_close(compiled(inputs.image, inputs.state_B7, inputs.text), expected.tokens_BNE)


def test_the_full_adapter_prompt_needs_the_published_tokenizer(tmp_path: Path) -> None:
    """The tiny tokenizer does not know Qwen's special tokens: a wrong tokenizer.json is noticed, not read as noise."""
    policy = tiny.policy("vla_adapter", prompt=VlaAdapterConfig.full().prompt)
    with pytest.raises(UnknownInstruction, match="no token"):
        policy.prepare(tiny.observations(1))
