"""What a policy sees in one moment (``Observation``) and what one demonstration is (``Episode``).

An episode has T steps. Step t holds the observation at tick t and the action that leads to tick t + 1, so
T + 1 observations were taken; the last one, which no action follows, is ``final``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention
from prophrl_models.data.depth import DepthColumns
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH, Depth, Image

STATE_NAMES = ("x_m", "y_m", "z_m", "ex_rad", "ey_rad", "ez_rad", "opening")
ACTION_NAMES = ("dx_m", "dy_m", "dz_m", "dex_rad", "dey_rad", "dez_rad", "opening")
STATE_DIM = len(STATE_NAMES)
ACTION_DIM = len(ACTION_NAMES)
NO_CALIBRATION = "none"
"""Calibration id of an episode recorded without a hand-eye calibration."""


@dataclass(frozen=True)
class Observation:
    """One policy input.

    Attributes:
        image_HW3: RGB uint8 [240, 320, 3].
        state_7: float32 ``[x y z ex ey ez g]``: TCP pose in the base frame (metres, extrinsic xyz radians on
            the branch of ``SyncSpec.euler_centre_rad``) and measured opening (0 closed .. 1 open).
        instruction: what to do, in words.
        stamp_ns: the tick this observation was taken at, nanoseconds since the epoch.
    """

    image_HW3: Image
    state_7: NDArray[np.float32]
    instruction: str
    stamp_ns: int

    def __post_init__(self) -> None:
        if self.image_HW3.shape != (POLICY_HEIGHT, POLICY_WIDTH, 3) or self.image_HW3.dtype != np.uint8:
            raise ValueError(
                f"an observation holds RGB uint8 [{POLICY_HEIGHT}, {POLICY_WIDTH}, 3], got "
                f"{self.image_HW3.dtype} {self.image_HW3.shape}; crop with prophrl_models.data.image.policy_image"
            )
        if self.state_7.shape != (STATE_DIM,) or self.state_7.dtype != np.float32:
            raise ValueError(
                f"an observation's state is float32 [{', '.join(STATE_NAMES)}], got "
                f"{self.state_7.dtype} {self.state_7.shape}"
            )


@dataclass(frozen=True)
class EpisodeMetadata:
    """What the recorder was told about an episode; unknown texts are empty, never guessed."""

    episode_id: str
    task: str = ""
    instruction: str = ""
    operator_name: str = ""
    outcome: str = "unknown"
    """"success", "failure" or "unknown", as the operator or the judge said."""
    accepted: bool = True
    note: str = ""
    calibration_id: str = NO_CALIBRATION
    placement: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that was kept with the recording (git revision, cell, software versions)."""


@dataclass(frozen=True)
class EpisodeColumns:
    """An episode without its images: what fits into memory whatever its length.

    Attributes:
        state_T7: float32, see ``Observation``.
        action_T7: float32 ``[dx dy dz dex dey dez g]`` in ``convention``; g is the opening commanded at t + 1.
        stamp_ns_T: the ticks, int64 nanoseconds.
        source_stamp_ns_T: for each stream, the acquisition stamps of the samples behind each step, untouched.
        valid_T: both this step's and the next step's samples were fresh, so the action is to be trusted.
        moving_T: something was commanded or moved between this tick and the next.
        final: the observation after the last action.
        quality: the gap and drop report (``prophrl_models.data.quality.EpisodeQuality`` as JSON).
        depth: stamps of the depth pictures and the final one; None without depth.
    """

    metadata: EpisodeMetadata
    convention: ActionConvention
    control_rate_hz: float
    state_T7: NDArray[np.float32]
    action_T7: NDArray[np.float32]
    stamp_ns_T: NDArray[np.int64]
    source_stamp_ns_T: Mapping[str, NDArray[np.int64]]
    valid_T: NDArray[np.bool_]
    moving_T: NDArray[np.bool_]
    final: Observation
    quality: Mapping[str, Any]
    depth: DepthColumns | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        steps = len(self)
        shapes = {
            "state_T7": (self.state_T7.shape, (steps, STATE_DIM)),
            "action_T7": (self.action_T7.shape, (steps, ACTION_DIM)),
            "valid_T": (self.valid_T.shape, (steps,)),
            "moving_T": (self.moving_T.shape, (steps,)),
        }
        for stream, stamps in self.source_stamp_ns_T.items():
            shapes[f"source_stamp_ns_T[{stream!r}]"] = (stamps.shape, (steps,))
        if self.depth is not None:
            shapes["depth.stamp_ns_T"] = (self.depth.stamp_ns_T.shape, (steps,))
        for name, (actual, wanted) in shapes.items():
            self._check(name, actual, wanted)

    def _check(self, name: str, actual: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if actual != wanted:
            raise ValueError(f"episode {self.metadata.episode_id!r}: {name} has shape {actual}, expected {wanted}")

    def __len__(self) -> int:
        return len(self.stamp_ns_T)

    @property
    def instruction(self) -> str:
        return self.metadata.instruction

    @property
    def duration_s(self) -> float:
        """Time from the first tick to the observation after the last action."""
        return float(self.final.stamp_ns - int(self.stamp_ns_T[0])) * 1e-9


@dataclass(frozen=True)
class Episode(EpisodeColumns):
    """One synchronised demonstration; pictures are memory-mapped when read.

    Attributes:
        color_THW3: RGB uint8 [T, 240, 320, 3].
        depth_THW: uint16 millimetres [T, 240, 320], pixel by pixel on the colour image; None without depth.
    """

    color_THW3: Image
    depth_THW: Depth | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("color_THW3", self.color_THW3.shape, (len(self), POLICY_HEIGHT, POLICY_WIDTH, 3))
        if (self.depth_THW is None) != (self.depth is None):
            raise ValueError(f"episode {self.metadata.episode_id!r} has depth pictures without stamps or the reverse")
        if self.depth_THW is not None:
            self._check("depth_THW", self.depth_THW.shape, (len(self), POLICY_HEIGHT, POLICY_WIDTH))

    def observation(self, step: int) -> Observation:
        """The policy input at one step, 0 <= step < T."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is outside 0..{len(self) - 1} of episode {self.metadata.episode_id!r}")
        return Observation(
            np.asarray(self.color_THW3[step]), self.state_T7[step], self.instruction, int(self.stamp_ns_T[step])
        )
