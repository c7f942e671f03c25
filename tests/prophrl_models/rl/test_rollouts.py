"""Rollouts: what is recorded is what happened, and every rollout depends on its own seed alone."""

from __future__ import annotations

import io
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from calibration.poses import ActionConvention
from prophrl_models.policies import flow
from prophrl_models.policies.grip import firm_grip
from prophrl_models.policies.interface import ObservationBatch
from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.rl.rollouts import NEVER, RolloutWorker, Unit, derived_seed, joined
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.state_source import integrated_states
from tests.helpers.dot_runs import SETTINGS, dot_worker
from tests.helpers.dot_world import CALLS, CHUNK, STEPS, DotJudge, DotWorld, starts

UNIT = Unit((0, 0, 1, 1), (11, 12, 13, 14))


@pytest.mark.parametrize("close_below", [0.0, 1.0])
def test_states_are_the_integral_of_the_chosen_actions_with_a_firm_grip(taught: TinyPolicy, close_below: float) -> None:
    """The chain keeps what the policy said: its log-probabilities are about that."""
    worker = dot_worker(taught, replace(SETTINGS, rollout=replace(SETTINGS.rollout, close_below=close_below)))
    worker.world = DotWorld(jitter_m=0.0)
    found = worker.run(UNIT)
    states_BS7 = found.inputs.state_B7.reshape(4, CALLS, 7).numpy()
    chunks = taught.spec.action_scaling.restore(found.chain_BSKCD[:, :, -1]).numpy()
    assert ((chunks[..., 6] > 0.0) & (chunks[..., 6] < 1.0)).any()  # there is something to close
    chunks = firm_grip(chunks, close_below)
    for row in range(4):
        walked = integrated_states(
            worker.starts[UNIT.starts[row]].state_7, chunks[row].reshape(-1, 7), worker.world.convention
        )
        np.testing.assert_allclose(states_BS7[row], walked[::CHUNK], atol=1e-5)


def test_steps_of_the_chain_are_standard_normal_about_the_means(taught: TinyPolicy) -> None:
    """Against policies.flow, which holds the step for the uniform grid in another form."""
    found = dot_worker(taught).run(Unit(tuple(range(24)), tuple(range(24))))
    cond = taught.embed(found.inputs)
    chain = found.chain_BSKCD.flatten(0, 1)
    t_K = flow.time_grid(STEPS)[:-1]
    std_K = flow.sde_std(STEPS, SETTINGS.rollout.noise_level)
    z = []
    with torch.no_grad():
        for k in range(STEPS):
            v = taught.velocity(cond, chain[:, k], t_K[k].expand(len(chain)))
            z.append((chain[:, k + 1] - flow.sde_mean(chain[:, k], v, t_K[k], std_K[k], STEPS)) / std_K[k])
    drawn = torch.stack(z)
    count = drawn.numel() ** 0.5
    assert abs(float(drawn.mean())) < 4.0 / count and abs(float(drawn.std()) - 1.0) < 4.0 / count
    assert abs(float(chain[:, 0].std()) - 1.0) < 0.05


def test_a_rollout_does_not_depend_on_its_batch(taught: TinyPolicy) -> None:
    worker = dot_worker(taught)
    together = worker.run(UNIT)
    for row in range(4):
        alone = worker.run(Unit(UNIT.starts[row : row + 1], UNIT.seeds[row : row + 1]))
        torch.testing.assert_close(alone.chain_BSKCD[0], together.chain_BSKCD[row], atol=1e-4, rtol=1e-4)
        assert alone.success_B[0] == together.success_B[row]


def test_members_of_a_group_differ_and_seeds_repeat(taught: TinyPolicy) -> None:
    worker = dot_worker(taught)
    first, again = worker.run(UNIT), worker.run(UNIT)
    assert torch.equal(first.chain_BSKCD, again.chain_BSKCD) and torch.equal(first.score_B, again.score_B)
    assert not torch.allclose(first.chain_BSKCD[0], first.chain_BSKCD[1])


def test_ode_rollouts_walk_as_the_deployed_policy(taught: TinyPolicy) -> None:
    worker = dot_worker(taught)
    found = worker.run(Unit((0,), (5,), mode="ode"))
    prompt = worker.starts[0]
    obs = ObservationBatch(
        torch.from_numpy(prompt.image_HW3)[None], torch.from_numpy(prompt.state_7)[None], (prompt.instruction,)
    )
    _, trace = taught.sample_actions(obs, found.chain_BSKCD[0, 0, :1])
    torch.testing.assert_close(found.chain_BSKCD[0, 0], trace.chain_BKCD[0], atol=1e-5, rtol=1e-5)
    assert found.noise_level == 0.0


def test_fewer_actions_than_planned_are_executed(taught: TinyPolicy) -> None:
    settings = replace(SETTINGS, rollout=replace(SETTINGS.rollout, keep=2))
    worker = dot_worker(taught, settings)
    worker.world = DotWorld(jitter_m=0.0)
    found = worker.run(UNIT)
    chunk = taught.spec.action_scaling.restore(found.chain_BSKCD[0, 0, -1])
    moved = found.inputs.state_B7[1, :2] - found.inputs.state_B7[0, :2]
    torch.testing.assert_close(moved, chunk[:2, :2].sum(0), atol=1e-5, rtol=1e-4)


def test_inputs_stay_bytes_and_videos_are_complete(taught: TinyPolicy) -> None:
    found = dot_worker(taught).run(replace(UNIT, video=True))
    assert found.inputs.image.dtype is torch.uint8 and len(found.inputs) == 4 * CALLS
    with av.open(io.BytesIO(found.videos[2])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 1 + CALLS * CHUNK


def test_silence_of_the_judge_is_no_failure(taught: TinyPolicy) -> None:
    found = dot_worker(taught, judge=DotJudge(silent=(1,))).run(UNIT)
    assert found.success_B[1].isnan() and found.finish_B[1] == NEVER and found.unparsed_B[1] == 1
    assert not found.success_B[[0, 2, 3]].isnan().any()
    assert found.reward_B("score").isnan().tolist() == [False, True, False, False]
    assert torch.equal(found.reward_B("score")[2:], found.score_B[2:]) and found.reward_B("verdict") is found.success_B


def test_pieces_are_joined_and_selected_in_order(taught: TinyPolicy) -> None:
    worker = dot_worker(taught)
    whole = joined([worker.run(UNIT), worker.run(Unit((2,), (15,)))])
    part = whole.select([4, 1])
    assert part.seed_B.tolist() == [15, 12]
    torch.testing.assert_close(part.inputs.state_B7[0], torch.from_numpy(worker.starts[2].state_7))
    assert torch.equal(part.inputs.state_B7[CALLS:], whole.inputs.state_B7[CALLS : 2 * CALLS])
    with pytest.raises(ValueError, match="same noise"):
        joined([worker.run(UNIT), worker.run(Unit((0,), (1,), mode="ode"))])


def test_what_does_not_fit_is_refused(taught: TinyPolicy) -> None:
    class Local(DotWorld):
        convention = ActionConvention.LOCAL_FRAME_DELTA

    with pytest.raises(TrainingError, match="keep must be between 1 and 4"):
        RolloutWorker(taught, DotWorld(), DotJudge(), starts(1, 0), RolloutOptions(keep=5))
    with pytest.raises(TrainingError, match="LOCAL_FRAME_DELTA"):
        RolloutWorker(taught, Local(), DotJudge(), starts(1, 0), RolloutOptions())
    with pytest.raises(ValueError, match="seed for each start"):
        Unit((0, 1), (0,))


def test_derived_seeds_differ_in_every_part() -> None:
    seeds = {derived_seed(run, step, part) for run in range(5) for step in range(50) for part in ("a", "b", 1, 11)}
    assert len(seeds) == 5 * 50 * 4 and all(0 <= seed < 2**63 for seed in seeds)
