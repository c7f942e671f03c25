"""The learned world with a hand-made network: frames, history, state and action frames reach it as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calibration.action_frame import PLUMB_STYLE, STYLE, render_action_frames
from calibration.action_frame_drawing import ActionFrameStyle
from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, from_euler
from prophrl_models.policies.interface import ObservationBatch, Scaling
from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.config import ProphetConfig, preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.rollout import Prompt, imagine
from prophrl_models.prophet.sampler import Sampler, draw_noise, mixed_seed
from prophrl_models.prophet.worlds import ProphetState, ProphetWorld
from prophrl_models.training.state_source import IntegratedState

CAMERA = PinholeCamera(
    30.0, 30.0, 23.5, 15.5, 48, 32, T_camera_base=np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1.0]])
)
GREY = 2.0 / 255.0


class MeanCodec(Codec):
    """Latent channel f is the mean level of frame f of the group, in -1 .. 1; decoding paints flat frames."""

    groupwise = True

    def __init__(self) -> None:
        super().__init__(CodecConfig(latent_channels=4))
        self.register_buffer("nothing", torch.zeros(1))

    def encode_groups(self, frames_B4HW3: Tensor) -> Tensor:
        B, _, H, W, _ = frames_B4HW3.shape
        level = frames_B4HW3.float().reshape(B, 4, H // 8, 8, W // 8, 8, 3).mean(dim=(3, 5, 6))
        return level / 127.5 - 1.0

    def encode(self, frames_BTHW3: Tensor) -> Tensor:
        first = frames_BTHW3[:, :1].expand(-1, 4, -1, -1, -1)
        return self.encode_history(torch.cat([first, frames_BTHW3[:, 1:]], 1))

    def encode_history(self, frames_BTHW3: Tensor) -> Tensor:
        groups = frames_BTHW3.unflatten(1, (-1, 4))
        return torch.stack([self.encode_groups(groups[:, i]) for i in range(groups.shape[1])], dim=2)

    def decode(self, latent_BCLHW: Tensor) -> Tensor:
        levels = (latent_BCLHW * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        frames = levels.permute(0, 2, 1, 3, 4).flatten(1, 2)  # [B, 4 L, h, w]
        frames = torch.cat([frames[:, :1], frames[:, 4:]], 1)
        big = frames.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return big[..., None].expand(*big.shape, 3).contiguous()


class PaintingNetwork(torch.nn.Module):
    """An exact, certain world: frame k has the condition's level plus ten grey levels for every unit of x moved by
    actions 0 .. k, whatever the noise. It keeps what it was given."""

    def __init__(self, noise_share: float = 0.0) -> None:
        super().__init__()
        self.noise_share = noise_share
        self.seen: dict[str, Tensor | None] = {}

    def remember(self, history_BCMHW: Tensor) -> Tensor:
        return history_BCMHW

    def forward(
        self,
        latent_BCLHW: Tensor,
        t_BL: Tensor,
        *,
        actions_BAX: Tensor | None = None,
        frame_latent_BCLHW: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        self.seen = {"actions": actions_BAX, "frames": frame_latent_BCLHW, "history": memory}
        self.seen["known"] = latent_BCLHW[:, :, 0]
        assert actions_BAX is not None
        moved_BA = actions_BAX[..., 0].cumsum(1)
        level = latent_BCLHW[:, 3, 0, 0, 0][:, None] + moved_BA * 10.0 * GREY  # [B, 20]
        clip_BCL = torch.cat([torch.zeros(len(level), 4, 1), level.unflatten(1, (5, 4)).transpose(1, 2)], dim=2)
        clip = clip_BCL[:, :, : latent_BCLHW.shape[2], None, None].expand_as(latent_BCLHW)
        t = t_BL[:, None, :, None, None]
        velocity = (latent_BCLHW - clip) / t
        return velocity - self.noise_share * torch.tanh(latent_BCLHW)


def config(**network: Any) -> ProphetConfig:
    tiny = preset("tiny")
    return replace(
        tiny,
        network=replace(tiny.network, latent_channels=4, **network),
        codec=CodecConfig(latent_channels=4),
        action_scaling=Scaling((0.0,) * 7, (0.01,) * 6 + (1.0,)),
    )


def make_world(noise_share: float = 0.0, batch: int = 32, **network: Any) -> ProphetWorld:
    sampler = Sampler(PaintingNetwork(noise_share), steps=3, solver="euler", schedule="flow")
    return ProphetWorld(sampler, MeanCodec(), config(**network), batch=batch)


def seen(world: ProphetWorld) -> dict[str, Tensor]:
    network = world.sampler.network
    assert isinstance(network, PaintingNetwork)
    return {name: value for name, value in network.seen.items() if value is not None}


def begin(world: ProphetWorld, rows: int = 1, level: int = 50, seeds: Sequence[int] | None = None) -> Any:
    first = torch.full((rows, 32, 48, 3), level, dtype=torch.uint8)
    state = torch.zeros(rows, 7)
    state[:, 2], state[:, 6] = 0.5, 1.0
    return world.begin(first, state, cameras=[CAMERA] * rows, seeds_B=seeds or list(range(rows)))


def steps_of(moves: Sequence[float], opening: float = 0.25) -> Tensor:
    """Actions that move x by so many centimetres each."""
    actions = torch.zeros(1, len(moves), 7)
    actions[0, :, 0] = 0.01 * torch.tensor(list(moves))
    actions[0, :, 6] = opening
    return actions


def levels(frames_BFHW3: Tensor) -> list[int]:
    return [int(level) for level in frames_BFHW3[0, :, 0, 0, 0]]


def test_actions_reach_the_frames_they_lead_to() -> None:
    world = make_world()
    _, frames = world.advance(begin(world), steps_of([1, 0, 2, 0, 0, 3]), 6)
    assert levels(frames) == [60, 60, 80, 80, 80, 110]
    _, other = world.advance(begin(world), steps_of([1, 0, 2, 0, 1, 3]), 6)
    assert levels(other) == [60, 60, 80, 80, 90, 120]


def test_a_world_trained_on_short_clips_imagines_only_what_is_kept() -> None:
    whole, short = make_world(), make_world()
    short.short_clips = True
    moves = steps_of([1, 0, 2, 0, 0, 3, 1, 1, 1, 1])
    state, frames = short.advance(begin(short), moves, 6)
    same_state, same_frames = whole.advance(begin(whole), moves, 6)
    assert torch.equal(frames, same_frames) and torch.equal(state.state_B7, same_state.state_B7)
    assert seen(short)["frames"].shape[2] == 3 and seen(whole)["frames"].shape[2] == 6
    assert torch.equal(seen(short)["frames"], seen(whole)["frames"][:, :, :3])
    assert torch.equal(seen(short)["actions"], seen(whole)["actions"])


def test_what_has_not_changed_is_shown_as_it_was_and_latents_roll_on_as_they_are() -> None:
    plain, over = make_world(), make_world()
    over.over_known = True
    begun = begin(plain)
    texture = torch.randint(-5, 6, begun.frame_BHW3.shape, generator=torch.Generator().manual_seed(0))
    first = (begun.frame_BHW3.int() + texture).to(torch.uint8)
    starts = [world.begin(first, begun.state_B7, cameras=[CAMERA], seeds_B=[0]) for world in (plain, over)]
    moves = steps_of([0] * 4 + [6] + [0] * 3)
    (ahead, decoded), (ahead_over, shown) = (
        world.advance(state, moves, 8) for world, state in zip((plain, over), starts, strict=True)
    )
    assert torch.equal(shown[:, :4], first[:, None].expand(-1, 4, -1, -1, -1)), "nothing has moved yet"
    assert not torch.equal(decoded[:, 0], first), "the codec knows no texture"
    assert torch.equal(shown[:, 4:], decoded[:, 4:])
    assert torch.equal(ahead_over.frame_BHW3, shown[:, -1])
    histories = [state.history for state in (ahead, ahead_over)]
    assert torch.equal(histories[0].groups_BCNHW, histories[1].groups_BCNHW)
    with pytest.raises(ValueError, match="groupwise"):
        codec = MeanCodec()
        codec.groupwise = False
        ProphetWorld(plain.sampler, codec, plain.config, over_known=True)


def test_missing_actions_are_holds_and_scaled_into_the_first_arm() -> None:
    world = make_world()
    world.advance(begin(world), steps_of([1, 2, 3], opening=0.25), 2)
    actions = seen(world)["actions"]
    assert actions.shape == (1, 20, 14)
    np.testing.assert_allclose(actions[0, :, 0].numpy(), [1, 2, 3, *[0] * 17], atol=1e-5)
    assert (actions[0, :, 6] == 0.25).all() and not actions[..., 7:].any()


def test_the_history_is_the_frames_before_the_known_one() -> None:
    world, tape = make_world(), [10]
    state = begin(world, level=10)
    for moves, keep in (([1, 1, 1, 1, 1], 5), ([2, 2, 2], 3), ([0, 1, 0, 1, 0, 1], 6), ([1, 0] * 10, 20)):
        state, frames = world.advance(state, steps_of(moves), keep)
        tape += levels(frames)
    world.advance(state, steps_of([0]), 1)
    history = seen(world)["history"]
    assert history.shape == (1, 4, 15, 4, 6)
    now = len(tape) - 1
    expected = [tape[max(0, i)] for i in range(now - 63, now - 3)]  # before the group that ends with the known frame
    found = (history[0, :, :, 0, 0].T.flatten() * 127.5 + 127.5).round().int().tolist()
    assert found == expected


def test_a_known_frame_that_stands_alone_shows_no_motion_and_its_group_is_the_newest_of_the_history() -> None:
    def shown(latent_CN: Tensor) -> list[int]:
        return [round(level) for level in (latent_CN.T.flatten() * 127.5 + 127.5).tolist()]

    looks = {}
    for alone in (False, True):
        world = make_world(known_alone=alone)
        state = begin(world, level=10)
        for moves in ([1, 1, 1, 1], [0, 0, 0, 3]):
            state, _ = world.advance(state, steps_of(moves), 4)
        world.advance(state, steps_of([0]), 1)
        given = seen(world)
        assert given["history"].shape == (1, 4, 15, 4, 6)
        looks[alone] = shown(given["known"][0, :, :1, 0]), shown(given["history"][0, :, -2:, 0, 0])
    assert looks[False] == ([50, 50, 50, 80], [10, 10, 10, 10, 20, 30, 40, 50])
    assert looks[True] == ([80] * 4, [20, 30, 40, 50, 50, 50, 50, 80])


def test_whole_groups_that_were_imagined_are_never_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(action_frames="none")
    state = begin(world, rows=2)

    def refuse(self: MeanCodec, frames_BTHW3: Tensor) -> Tensor:
        raise AssertionError("an imagined frame went through the codec")

    moves = steps_of([1, 0, 2, 0, 0, 3, 1, 1, 1]).repeat(2, 1, 1)
    with monkeypatch.context() as patch:
        for name in ("encode_groups", "encode_history", "encode"):
            patch.setattr(MeanCodec, name, refuse)
        state, _ = world.advance(state, moves, torch.tensor([8, 4]))
        state, _ = world.advance(state, moves, 4)
        with pytest.raises(AssertionError, match="went through the codec"):
            world.advance(state, moves, 3)
    assert isinstance(state, ProphetState) and state.history is not None and state.history.groups_BCNHW is not None
    last = (state.history.groups_BCNHW[:, :, -1:][:, :, 0, 0, 0] * 127.5 + 127.5).round().int()
    # Row 0 kept eight moves (to 130), then four more; row 1 four (to 80) and four.
    assert last.tolist() == [[140, 140, 160, 160], [90, 90, 110, 110]]


def test_rows_may_keep_different_numbers_of_frames() -> None:
    world = make_world()
    state = begin(world, rows=3)
    actions = steps_of([1, 1, 1, 1]).repeat(3, 1, 1)
    state, frames = world.advance(state, actions, torch.tensor([4, 0, 2]))
    assert frames.shape == (3, 4, 32, 48, 3)
    assert frames[:, :, 0, 0, 0].tolist() == [[60, 70, 80, 90], [50] * 4, [60, 70, 70, 70]]
    np.testing.assert_allclose(state.state_B7[:, 0].numpy(), [0.04, 0.0, 0.02], atol=1e-7)
    assert state.state_B7[:, 6].tolist() == [0.25, 1.0, 0.25]
    assert state.frame_BHW3[:, 0, 0, 0].tolist() == [90, 50, 70]
    state, frames = world.advance(state, actions, 1)
    assert frames[:, 0, 0, 0, 0].tolist() == [100, 60, 80]
    untouched, frames = world.advance(state, actions, 0)
    assert frames.shape[1] == 0 and torch.equal(untouched.frame_BHW3, state.frame_BHW3)


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_the_state_is_integrated_like_the_running_robots(convention: ActionConvention) -> None:
    world = make_world()
    world.config = replace(world.config, convention=convention)
    rng = np.random.default_rng(0)
    actions = torch.from_numpy(rng.normal(scale=0.05, size=(2, 5, 7)).astype(np.float32))
    state = begin(world, rows=2)
    counters = [IntegratedState(convention) for _ in range(2)]
    for row, counter in enumerate(counters):
        counter.start(state.state_B7[row].numpy())
    for keep in (3, 5):
        state, _ = world.advance(state, actions, keep)
        for row, counter in enumerate(counters):
            counter.advance(actions[row, :keep].numpy())
            np.testing.assert_allclose(state.state_B7[row].numpy(), counter.state_7, atol=1e-6)


@pytest.mark.parametrize(("plumb_line", "style"), [(False, STYLE), (True, PLUMB_STYLE)])
def test_action_frames_show_the_chunk_from_the_known_frame_on(plumb_line: bool, style: ActionFrameStyle) -> None:
    world = make_world(plumb_line=plumb_line)
    assert world.needs_camera
    state, _ = world.advance(begin(world), steps_of([2, 0], opening=0.5), 1)
    world.advance(state, steps_of([1, -3], opening=0.75), 1)
    poses = [[x, 0, 0.5, 0, 0, 0] for x in (0.02, 0.03, *[0.0] * 19)]
    openings = [0.5, *[0.75] * 20]
    pictures = render_action_frames(np.stack([from_euler(p) for p in poses]), np.array(openings), CAMERA, style=style)
    expected = MeanCodec().encode(torch.from_numpy(pictures)[None])
    torch.testing.assert_close(seen(world)["frames"], expected)


def test_a_camera_is_resized_to_the_worlds_frames() -> None:
    world = make_world()
    small = begin(world)
    first = small.frame_BHW3
    large = world.begin(first, torch.from_numpy(small.pose_B7), cameras=[CAMERA.resized(320, 240)], seeds_B=[0])
    camera = large.cameras[0]
    assert camera is not None and (camera.width, camera.height) == (48, 32)
    np.testing.assert_allclose(camera.K, CAMERA.K)


def test_a_world_without_action_frames_needs_no_camera() -> None:
    world = make_world(action_frames="none", memory=None)
    first = torch.zeros(1, 32, 48, 3, dtype=torch.uint8)
    state = world.begin(first, torch.zeros(1, 7), cameras=[None], seeds_B=[0])
    world.advance(state, steps_of([1]), 1)
    assert set(seen(world)) == {"actions", "known"}


def test_noise_depends_on_the_rows_seed_and_chunk_only() -> None:
    used: list[Tensor] = []

    class Watching(Sampler):
        def sample(self, condition_BC1HW: Tensor, *args: Any, **options: Any) -> Tensor:
            used.append(draw_noise(options["seeds_B"], (4,)))
            return super().sample(condition_BC1HW, *args, **options)

    world = make_world()
    world.sampler = Watching(PaintingNetwork(), steps=2)
    actions = steps_of([1]).repeat(2, 1, 1)
    state, _ = world.advance(begin(world, rows=2, seeds=[5, 9]), actions, 1)
    world.advance(state.select([1, 0]), actions, 1)
    expected = [[mixed_seed(5, 0), mixed_seed(9, 0)], [mixed_seed(9, 1), mixed_seed(5, 1)]]
    for noise, seeds in zip(used, expected, strict=True):
        assert torch.equal(noise, draw_noise(seeds, (4,)))


def test_rollouts_do_not_depend_on_the_size_of_the_batch() -> None:
    prompts = [
        Prompt(
            np.full((32, 48, 3), 40 * (i + 1), np.uint8), np.array([0, 0, 0.5, 0, 0, 0, 1], np.float32), "go", CAMERA
        )
        for i in range(3)
    ]

    def choose(observed: ObservationBatch, rows: list[int], step: int) -> tuple[Tensor, Any]:
        moves = torch.tensor([[0.001 * (row + step + k) for k in range(5)] for row in rows])
        actions = torch.zeros(len(rows), 5, 7)
        actions[..., 0] = moves
        return actions, None

    arguments: dict[str, Any] = {"steps": 2, "keep": 3, "seeds": [1, 2, 1, 2, 1, 2], "group": 2}
    reference = imagine(make_world(noise_share=0.3), prompts, choose, **arguments)
    assert (reference.frames_BTHW3[0, 1:] != reference.frames_BTHW3[1, 1:]).any()  # the seeds matter here
    for batch, inner in ((2, 32), (6, 4), (1, 1)):
        found = imagine(make_world(noise_share=0.3, batch=inner), prompts, choose, batch=batch, **arguments)
        np.testing.assert_array_equal(found.frames_BTHW3, reference.frames_BTHW3)


def test_repeated_states_have_the_same_future() -> None:
    world = make_world(noise_share=0.3)
    state = begin(world, rows=2).repeat(2)
    assert state.seeds_B == (0, 0, 1, 1)
    _, frames = world.advance(state, steps_of([1, 2]).repeat(4, 1, 1), 2)
    assert torch.equal(frames[0], frames[1]) and not torch.equal(frames[0], frames[2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"first": torch.zeros(1, 16, 48, 3, dtype=torch.uint8)}, "first frames uint8"),
        ({"first": torch.zeros(1, 32, 48, 3)}, "first frames uint8"),
        ({"state": torch.full((1, 7), float("nan"))}, "finite"),
        ({"state": torch.zeros(1, 6)}, "1 x 7"),
        ({"cameras": [None]}, "no camera"),
        ({"cameras": []}, "a camera"),
        ({"seeds": [1, 2]}, "a seed each"),
    ],
)
def test_bad_beginnings_are_refused(change: dict[str, Any], message: str) -> None:
    values = {
        "first": torch.zeros(1, 32, 48, 3, dtype=torch.uint8),
        "state": torch.zeros(1, 7),
        "cameras": [CAMERA],
        "seeds": [0],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        make_world().begin(values["first"], values["state"], cameras=values["cameras"], seeds_B=values["seeds"])


@pytest.mark.parametrize(
    "actions, keep, message",
    [
        (torch.zeros(1, 21, 7), 1, r"actions \[1, 1..20, 7\]"),
        (torch.zeros(1, 5, 8), 1, r"actions \[1, 1..20, 7\]"),
        (torch.zeros(2, 5, 7), 1, r"actions \[1, 1..20, 7\]"),
        (torch.zeros(1, 0, 7), 0, r"actions \[1, 1..20, 7\]"),
        (torch.full((1, 5, 7), float("inf")), 1, "NaN or infinity"),
        (torch.zeros(1, 5, 7), 6, "keep must be"),
        (torch.zeros(1, 5, 7), -1, "keep must be"),
        (torch.zeros(1, 5, 7), torch.tensor([1, 2]), "keep must be"),
    ],
)
def test_bad_actions_are_refused(actions: Tensor, keep: Any, message: str) -> None:
    world = make_world()
    with pytest.raises(ValueError, match=message):
        world.advance(begin(world), actions, keep)


def test_states_of_another_world_are_refused() -> None:
    with pytest.raises(TypeError, match="start with begin"):
        make_world().advance(object(), steps_of([1]), 1)  # type: ignore[arg-type]


def test_the_genuine_network_and_codec_make_a_world() -> None:
    from prophrl_models.prophet.codec import build_codec

    torch.manual_seed(0)
    tiny = preset("tiny")
    network = Prophet(tiny.network).eval()
    network.init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.proj_out.weight, std=0.05)
    world = ProphetWorld(Sampler(network, steps=2), build_codec(tiny.codec).eval(), tiny, batch=2)
    state = begin(world, rows=3, seeds=[1, 1, 2])
    actions = steps_of([1, 2, 3]).repeat(3, 1, 1)
    state, frames = world.advance(state, actions, 3)
    assert frames.shape == (3, 3, 32, 48, 3) and frames.dtype == torch.uint8
    # Rows 0 and 1 are the same but were sampled in batches of two; row 2 has another seed.
    assert torch.equal(frames[0], frames[1]) and not torch.equal(frames[0], frames[2])
    alone, _ = world.advance(begin(world, rows=1, seeds=[1]), actions[:1], 3)
    difference = (alone.frame_BHW3[0].int() - state.frame_BHW3[0].int()).abs().max()
    assert int(difference) <= 1  # matrix products of other batch sizes round differently


def test_a_checkpoint_folder_becomes_a_world(tmp_path: Path) -> None:
    from prophrl_models.prophet.checkpoint import Sampling, save_prophet
    from prophrl_models.prophet.codec import build_codec
    from prophrl_models.prophet.worlds import load_world

    tiny = preset("tiny")
    network, codec = Prophet(tiny.network), build_codec(tiny.codec).eval()
    network.init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.proj_out.weight, std=0.05)
    provenance = {"dataset_hashes": [], "calibration_ids": []}
    save_prophet(tmp_path / "a", network, codec, tiny, provenance, sampling=Sampling(steps=3, solver="euler"))
    assert load_world(tmp_path / "a").over_known, "as its codec is groupwise"
    world = load_world(tmp_path / "a", over_known=False)
    assert world.sampler.steps == 3 and world.sampler.solver == "euler" and world.actions == 20
    expected = ProphetWorld(Sampler(network.eval(), steps=3, solver="euler", schedule="flow"), codec, tiny)
    found = world.advance(begin(world), steps_of([1, 2]), 2)[1]
    assert torch.equal(found, expected.advance(begin(expected), steps_of([1, 2]), 2)[1])
    taught = Sampling(steps=2, solver="euler", times=(1.0, 0.5))
    save_prophet(tmp_path / "b", network, codec, tiny, provenance, sampling=taught)
    assert load_world(tmp_path / "b").sampler.sigmas == pytest.approx((80.0, 1.0))
    with pytest.raises(ValueError, match="distilled for 2 passes"):
        load_world(tmp_path / "b", steps=5)
