"""The learned world: a network, a codec and a sampler as an ``ImaginedWorld``.

A call predicts the clip of the known frame and A = 20 actions, and keeps the frames that were asked for. What was
before comes from ``history``, action frames are drawn from the integrated state; all as in training (``data.windows``,
``data.latents``, ``data.lerobot.action_frames``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.composite import composite
from prophrl_models.prophet.config import ProphetConfig
from prophrl_models.prophet.history import History, look_of
from prophrl_models.prophet.motion import drawn_action_frames, integrated
from prophrl_models.prophet.rollout import WorldState
from prophrl_models.prophet.sampler import Sampler, mixed_seed

FEW_STEPS = 4
"""With so few passes the schedule is the flow's: Karras' would spend the last pass on an almost clean clip."""


@dataclass(frozen=True)
class ProphetState:
    """Where B rollouts in a ``ProphetWorld`` stand; see ``rollout.WorldState``.

    Attributes:
        history: None for a network without memory whose codec sees the known frame alone.
        pose_B7: integrated states in float64.
        cameras: for frames of the world's size.
        seeds_B, chunk_B: seed of each row, and chunks it has been through; together they fix a chunk's noise.
    """

    frame_BHW3: Tensor
    history: History | None
    pose_B7: NDArray[np.float64]
    cameras: tuple[PinholeCamera | None, ...]
    seeds_B: tuple[int, ...]
    chunk_B: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seeds_B)

    @property
    def state_B7(self) -> Tensor:
        """``[x y z ex ey ez opening]`` after all kept actions, float32."""
        return torch.from_numpy(self.pose_B7.astype(np.float32))

    def select(self, rows: Sequence[int] | Tensor) -> ProphetState:
        """The same for some rows, in this order."""
        index = [int(row) for row in rows]
        at = torch.tensor(index, dtype=torch.long, device=self.frame_BHW3.device)
        return ProphetState(
            self.frame_BHW3[at],
            None if self.history is None else self.history.select(at),
            self.pose_B7[index],
            tuple(self.cameras[i] for i in index),
            tuple(self.seeds_B[i] for i in index),
            tuple(self.chunk_B[i] for i in index),
        )

    def repeat(self, times: int) -> ProphetState:
        """Each row ``times`` times in a row; copies have the same seed and hence the same future."""
        return self.select([row for row in range(len(self)) for _ in range(times)])


class ProphetWorld:
    """See the module's docstring; the methods are ``rollout.ImaginedWorld``'s."""

    def __init__(
        self,
        sampler: Sampler,
        codec: Codec,
        config: ProphetConfig,
        *,
        batch: int = 32,
        short_clips: bool = False,
        over_known: bool = False,
    ) -> None:
        """Args:
        sampler: holds the network of ``config``.
        batch: rows that are sampled and decoded at a time; bounds memory.
        short_clips: imagine only as many frames as are kept; for networks that were trained on short clips, too.
        over_known: show the known picture itself where nothing has changed (``composite``); groupwise codecs only,
            whose latents roll on as they are.
        """
        if over_known and not codec.groupwise:
            raise ValueError("pictures are laid over the known one only with a groupwise codec; leave over_known off")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        config.codec.latent_size(config.image_height, config.image_width)
        self.sampler, self.codec, self.config, self.batch = sampler, codec, config, batch
        self.short_clips, self.over_known = short_clips, over_known

    @property
    def image_height(self) -> int:
        return self.config.image_height

    @property
    def image_width(self) -> int:
        return self.config.image_width

    @property
    def actions(self) -> int:
        return self.config.network.actions

    @property
    def convention(self) -> ActionConvention:
        return ActionConvention(self.config.convention)

    @property
    def control_rate_hz(self) -> float:
        return self.config.control_rate_hz

    @property
    def needs_camera(self) -> bool:
        """Whether the network looks at action frames."""
        return self.config.network.action_frames != "none"

    @property
    def device(self) -> torch.device:
        """Where frames live."""
        return next(self.codec.buffers()).device

    @torch.no_grad()
    def begin(
        self,
        first_BHW3: Tensor,
        state_B7: Tensor,
        *,
        cameras: Sequence[PinholeCamera | None],
        seeds_B: Sequence[int] | Tensor,
    ) -> ProphetState:
        B = len(first_BHW3)
        expected = (B, self.image_height, self.image_width, 3)
        if B < 1 or first_BHW3.dtype != torch.uint8 or tuple(first_BHW3.shape) != expected:
            raise ValueError(
                f"this world needs first frames uint8 RGB {expected}, got {first_BHW3.dtype} "
                f"{tuple(first_BHW3.shape)}; resize them with prophet.rollout.resized"
            )
        pose = torch.as_tensor(state_B7).detach().cpu().double().numpy()
        if pose.shape != (B, 7) or not np.isfinite(pose).all():
            raise ValueError(f"states must be {B} x 7 finite numbers, got shape {pose.shape}")
        if len(cameras) != B or len(seeds_B) != B:
            raise ValueError(f"{B} rows need a camera (or None) and a seed each, got {len(cameras)}, {len(seeds_B)}")
        if self.needs_camera and any(camera is None for camera in cameras):
            missing = [row for row, camera in enumerate(cameras) if camera is None]
            raise ValueError(
                f"this world looks at action frames, and rows {missing[:5]} have no camera; give the calibrated camera "
                "of their pictures, or use a world without action frames"
            )
        first = first_BHW3.to(self.device)
        memory = self.config.network.memory
        length = 0 if memory is None else memory.frames
        return ProphetState(
            first,
            History.begin(first, length, self.codec) if length or self.codec.groupwise else None,
            pose,
            tuple(None if c is None else c.resized(self.image_width, self.image_height) for c in cameras),
            tuple(int(seed) for seed in seeds_B),
            (0,) * B,
        )

    @torch.no_grad()
    def advance(self, world: WorldState, actions_BCD: Tensor, keep: int | Tensor) -> tuple[ProphetState, Tensor]:
        state = _own(world)
        actions = self._checked(actions_BCD, len(state))
        keep_B = self._kept(keep, len(state), int(actions_BCD.shape[1]))
        most = int(keep_B.max())
        states_BT7 = integrated(state.pose_B7, actions, self.convention)
        frames = state.frame_BHW3[:, None].expand(-1, most, -1, -1, -1)
        imagined = None
        if most > 0:
            parts = [
                self._predict(state, actions, states_BT7, list(range(first, min(len(state), first + self.batch))), most)
                for first in range(0, len(state), self.batch)
            ]
            # A row that keeps fewer repeats its last frame; one that keeps none shows the frame it has.
            imagined = torch.cat([latents for _, latents in parts])
            tape = torch.cat([state.frame_BHW3[:, None], torch.cat([pictures for pictures, _ in parts])], dim=1)
            shown = torch.minimum(torch.arange(1, most + 1)[None], keep_B[:, None]).to(tape.device)
            frames = tape[torch.arange(len(state), device=tape.device)[:, None], shown]
        history = state.history
        if history is not None:
            history = history.extended(state.frame_BHW3, frames, keep_B, self.codec, imagined)
        new = ProphetState(
            frames[:, -1] if most else state.frame_BHW3,
            history,
            states_BT7[np.arange(len(state)), keep_B.numpy()],
            state.cameras,
            state.seeds_B,
            tuple(chunk + int(k > 0) for chunk, k in zip(state.chunk_B, keep_B, strict=True)),
        )
        return new, frames

    def _predict(
        self,
        state: ProphetState,
        actions_BA7: NDArray[np.float64],
        states_BT7: NDArray[np.float64],
        rows: list[int],
        most: int,
    ) -> tuple[Tensor, Tensor]:
        """The first ``most`` frames after the known one, uint8 [rows, most, H, W, 3], and the latents behind them."""
        network, codec = self.config.network, self.codec
        part = state.select(rows)
        row = None if part.history is None else part.history.groups_BCNHW
        if row is not None:
            condition, past = look_of(network, codec)(row.float())
        else:
            condition = codec.encode(part.frame_BHW3[:, None]).float()
            past = condition if part.history is None else part.history.latents(codec).float()
        history = None if network.memory is None else past.contiguous()
        scalars = None
        if network.scalar_actions:
            scaled = self.config.action_scaling.normalise(torch.from_numpy(actions_BA7[rows].astype(np.float32)))
            scalars = torch.nn.functional.pad(scaled, (0, network.action_dim - 7)).to(condition.device)
        groups = -(-most // codec.temporal)
        latent_frames = 1 + groups if self.short_clips else self.config.latent_frames
        drawn = None
        if self.needs_camera:
            cameras = [camera for camera in part.cameras if camera is not None]  # begin() saw to it that all are there
            poses_BT7 = states_BT7[rows, : 1 + codec.temporal * (latent_frames - 1)]
            pictures = torch.from_numpy(drawn_action_frames(poses_BT7, cameras, self.config.network.frame_style))
            drawn = codec.encode(pictures.to(condition.device)).float()
        latents = self.sampler.sample(
            condition,
            history,
            scalars,
            drawn,
            latent_frames=latent_frames,
            seeds_B=[mixed_seed(seed, chunk) for seed, chunk in zip(part.seeds_B, part.chunk_B, strict=True)],
        )
        if not bool(torch.isfinite(latents).all()):
            raise FloatingPointError(
                "the world model predicted NaN or infinity; sample in float32 or check its weights"
            )
        pictures = codec.decode_generated(latents[:, :, : 1 + groups])[:, :most]
        if self.over_known:
            still = codec.encode(part.frame_BHW3[:, None])
            pictures = composite(pictures, codec.decode_generated(still.repeat(1, 1, 2, 1, 1)), part.frame_BHW3)
        return pictures, latents[:, :, 1 : 1 + groups]

    def _checked(self, actions_BCD: Tensor, rows: int) -> NDArray[np.float64]:
        """Actions [B, A, 7], filled up with holds."""
        given = torch.as_tensor(actions_BCD).detach().cpu().double().numpy()
        if given.ndim != 3 or given.shape[0] != rows or given.shape[2] != 7 or not 1 <= given.shape[1] <= self.actions:
            raise ValueError(f"this world takes actions [{rows}, 1..{self.actions}, 7], got {list(given.shape)}")
        if not np.isfinite(given).all():
            raise ValueError("actions hold NaN or infinity; look at the policy that chose them")
        actions = np.zeros((rows, self.actions, 7))
        actions[:, : given.shape[1]] = given
        actions[:, given.shape[1] :, 6] = given[:, -1:, 6]
        return actions

    @staticmethod
    def _kept(keep: int | Tensor, rows: int, given: int) -> Tensor:
        keep_B = torch.as_tensor(keep, dtype=torch.long).cpu().reshape(-1)
        keep_B = keep_B.expand(rows) if len(keep_B) == 1 else keep_B
        if len(keep_B) != rows or int(keep_B.min()) < 0 or int(keep_B.max()) > given:
            raise ValueError(f"keep must be one number or {rows}, each in 0..{given}; got {keep_B.tolist()}")
        return keep_B


def load_world(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    steps: int | None = None,
    batch: int = 32,
    compile: bool = False,
    cuda_graphs: bool = False,
    over_known: bool = True,
) -> ProphetWorld:
    """The world of a checkpoint folder.

    Args:
        dtype: type of weights and arithmetic; bfloat16 on a GPU and float32 elsewhere when omitted.
        steps: passes of the network for a chunk; the checkpoint's own when omitted.
        batch: rows at a time; with ``compile`` every pass has exactly so many.
        compile, cuda_graphs: see ``Sampler``.
        over_known: where the codec is groupwise, see ``ProphetWorld``.

    Raises:
        CheckpointError: the folder is no intact world model.
        ValueError: ``steps`` differs from what a distilled checkpoint was taught.
    """
    from prophrl_models.prophet.checkpoint import load_prophet, read_sampling  # not needed for worlds made in memory

    network, codec, config, _ = load_prophet(folder, device)
    taught = read_sampling(folder)
    if taught.times and steps not in (None, taught.steps):
        raise ValueError(
            f"{folder} was distilled for {taught.steps} passes at levels {list(taught.times)}, not for {steps}; leave "
            "steps out"
        )
    passes = steps or taught.steps
    if dtype is None:
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    sampler = Sampler(
        network.to(dtype),
        steps=passes,
        solver=taught.solver,
        schedule="flow" if passes <= FEW_STEPS else "karras",
        times=taught.times,
        batch=batch if compile else None,
        compile=compile,
        cuda_graphs=cuda_graphs,
        dtype=dtype,
    )
    return ProphetWorld(
        sampler,
        codec.to(dtype),
        config,
        batch=batch,
        short_clips=taught.short_clips,
        over_known=over_known and codec.groupwise,
    )


def _own(world: WorldState) -> ProphetState:
    if not isinstance(world, ProphetState):
        raise TypeError(f"this world continues its own states, got {type(world).__name__}; start with begin()")
    return world
