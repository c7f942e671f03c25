"""The tiny policy behind the common interface: sizes, refusals, sampling, log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import (
    Cond,
    FlowPolicy,
    Inputs,
    ObservationBatch,
    PolicySpec,
    Scaling,
    TrainingBatch,
    UnknownInstruction,
)
from prophrl_models.policies.text import tokenise
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from tests.helpers.reaches import camera

KNOWN = ("put the red cube into the bowl", "grasp the bottle and lift it")
SMALL = TinyConfig(channels=8, width=16, cond_width=16, heads=2, maps=3, bf16=False)


def spec(**changes: object) -> PolicySpec:
    action = Scaling((0.0,) * 6 + (0.5,), (0.01,) * 3 + (0.02,) * 3 + (0.5,))
    state = Scaling((-0.65, 0.0, 0.2, 3.1, 0.0, 1.57, 0.7), (0.1,) * 7)
    values = {"instructions": KNOWN, **changes}
    return PolicySpec(ActionConvention.ABSOLUTE_POSE_DIFFERENCE, action, state, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def policy() -> TinyPolicy:
    torch.manual_seed(0)
    made = TinyPolicy(spec(), SMALL).eval()
    made.camera.set(camera())
    with torch.no_grad():  # an untrained head answers zero: give it something to say
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def observations(rows: int, seed: int = 1) -> ObservationBatch:
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 255, (rows, 240, 320, 3), dtype=torch.uint8, generator=g)
    state = torch.tensor([-0.65, 0.0, 0.3, np.pi, 0.0, np.pi / 2, 1.0]).repeat(rows, 1)
    state[:, :3] += 0.05 * torch.randn(rows, 3, generator=g)
    return ObservationBatch(image, state, tuple(KNOWN[i % 2] for i in range(rows)))


def test_default_size_stays_below_ten_million_parameters() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in TinyPolicy(spec()).parameters())
    assert 100_000 < count <= 10_000_000


def test_chunks_come_in_environment_units(policy: TinyPolicy) -> None:
    chunk, trace = policy.sample_actions(observations(3), generator=torch.Generator().manual_seed(0))
    assert chunk.shape == (3, policy.spec.chunk, 7) and torch.isfinite(chunk).all()
    assert trace.chain_BKCD.shape == (3, 11, 20, 7)
    torch.testing.assert_close(chunk, policy.spec.action_scaling.restore(trace.actions_BCD))


def test_encoder_runs_once_for_a_chunk_and_for_its_log_prob(
    policy: TinyPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, list[int]] = {"embed": [], "velocity": []}
    embed, velocity = policy.embed, policy.velocity

    def counted_embed(inputs: Inputs) -> Cond:
        calls["embed"].append(len(inputs))
        return embed(inputs)

    def counted_velocity(cond: Cond, x: Tensor, t: Tensor) -> Tensor:
        calls["velocity"].append(len(x))
        return velocity(cond, x, t)

    monkeypatch.setattr(policy, "embed", counted_embed)
    monkeypatch.setattr(policy, "velocity", counted_velocity)
    _, trace = policy.sample_actions(observations(2), mode="sde")
    assert calls == {"embed": [2], "velocity": [2] * 10}
    policy.log_prob(observations(2), trace)
    assert calls == {"embed": [2, 2], "velocity": [2] * 10 + [20]}


def test_first_recompute_of_log_prob_gives_ratio_one(policy: TinyPolicy) -> None:
    obs = observations(4)
    _, trace = policy.sample_actions(obs, mode="sde", noise_level=0.5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ratio_BCD = (policy.log_prob(obs, trace) - trace.logp_BKCD).sum(1).exp()
    torch.testing.assert_close(ratio_BCD, torch.ones_like(ratio_BCD), atol=2e-3, rtol=0)


def test_log_prob_has_gradients_in_encoder_and_head(policy: TinyPolicy) -> None:
    obs = observations(2)
    _, trace = policy.sample_actions(obs, mode="sde", generator=torch.Generator().manual_seed(4))
    policy.zero_grad()
    policy.log_prob(obs, trace).sum().backward()
    for name in ("head.out.weight", "head.mean.0.weight", "trunk.stem.weight", "summary.0.weight"):
        gradient = policy.get_parameter(name).grad
        assert gradient is not None and gradient.abs().max() > 0, name
    policy.zero_grad()


def test_gradient_step_along_log_prob_makes_the_chunk_likelier() -> None:
    torch.manual_seed(1)
    policy, obs = TinyPolicy(spec(), SMALL), observations(2)
    policy.camera.set(camera())
    _, trace = policy.sample_actions(obs, mode="sde", generator=torch.Generator().manual_seed(5))
    before = policy.log_prob(obs, trace).sum()
    before.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.add_(1e-7 * parameter.grad)
        assert policy.log_prob(obs, trace).sum() > before


def test_acting_is_repeatable_and_depends_on_the_picture(policy: TinyPolicy) -> None:
    first, second, other = (policy.act(observations(1, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_instruction_changes_the_chunk(policy: TinyPolicy) -> None:
    obs = observations(1)
    chunks = [policy.act(ObservationBatch(obs.image_BHW3, obs.state_B7, (text,))) for text in KNOWN]
    assert not torch.allclose(chunks[0], chunks[1], atol=1e-4)


def test_rows_of_a_batch_do_not_mix(policy: TinyPolicy) -> None:
    obs = observations(3)
    together = policy.act(obs)
    last = ObservationBatch(obs.image_BHW3[2:], obs.state_B7[2:], obs.instruction_B[2:])
    torch.testing.assert_close(together[2:], policy.act(last), atol=1e-4, rtol=1e-3)


def test_unknown_instruction_is_refused_and_names_the_known_ones(policy: TinyPolicy) -> None:
    obs = observations(1)
    with pytest.raises(UnknownInstruction, match=r"fold the towel.*red cube.*bottle"):
        policy.act(ObservationBatch(obs.image_BHW3, obs.state_B7, ("fold the towel",)))


@pytest.mark.parametrize("shape", [(1, 240, 424, 3), (1, 3, 240, 320)])
def test_other_image_shapes_are_refused(policy: TinyPolicy, shape: tuple[int, ...]) -> None:
    image = torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match="240, 320, 3"):
        policy.act(ObservationBatch(image, observations(1).state_B7, KNOWN[:1]))


def test_other_state_width_is_refused(policy: TinyPolicy) -> None:
    with pytest.raises(ValueError, match="states need shape"):
        policy.act(ObservationBatch(observations(1).image_BHW3, torch.zeros(1, 8), KNOWN[:1]))


def test_spec_and_scalings_must_agree() -> None:
    with pytest.raises(ValueError, match="fit them on the same dataset"):
        spec(action_dim=8)


def test_interface_default_loss_trains_a_policy_without_auxiliary_targets(policy: TinyPolicy) -> None:
    obs = observations(4)
    ones = torch.ones(4)
    batch = TrainingBatch(policy.prepare(obs), torch.zeros(4, 20, 7), ones, obs.state_B7, ones, noise_samples=2)
    losses = FlowPolicy.sft_loss(policy, batch, torch.Generator().manual_seed(0))
    assert losses["loss"].requires_grad and losses["loss"].item() == pytest.approx(losses["flow"].item())


def test_rows_without_weight_do_not_train(policy: TinyPolicy) -> None:
    obs, g = observations(2), torch.Generator()
    chunks = torch.zeros(2, 20, 7)
    chunks[1] = 1e3
    weight, ones = torch.tensor([1.0, 0.0]), torch.ones(2)
    inputs = policy.prepare(obs)
    both = policy.sft_loss(TrainingBatch(inputs, chunks, weight, obs.state_B7, ones, 1), g.manual_seed(1))
    none = policy.sft_loss(TrainingBatch(inputs, chunks, torch.zeros(2), obs.state_B7, ones, 1), g.manual_seed(1))
    assert both["flow"] < 1e3 and none["flow"] == 0


def test_word_ids_are_stable_and_ignore_case_and_punctuation() -> None:
    ids = tokenise(["Put the red cube, into the bowl.", "put the red cube into the bowl"])
    assert torch.equal(ids[0], ids[1])
    assert ids[0, :3].tolist() == tokenise(["put the red"])[0, :3].tolist()
    assert (ids[0, 7:] == 0).all() and (ids[0, :7] > 0).all()
