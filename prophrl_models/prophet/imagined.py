"""Where rollouts start and what comes out of them: plain values, without a world or a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Prompt:
    """Where a rollout starts.

    Attributes:
        image_HW3: first picture, RGB uint8 at the policy's size.
        state_7: measured state ``[x y z ex ey ez opening]``.
        instruction: what to do, in words.
        camera: model of the camera for pictures of that size, or None where it is not known.
        source: where it comes from (dataset and episode).
    """

    image_HW3: Image
    state_7: NDArray[np.float32]
    instruction: str
    camera: PinholeCamera | None = None
    source: str = ""

    def __post_init__(self) -> None:
        image, state = self.image_HW3, np.asarray(self.state_7)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"prompt {self.source!r}: picture is {image.dtype} {image.shape}, need RGB uint8 [H, W, 3]"
            )
        if state.shape != (7,) or not np.isfinite(state).all():
            raise ValueError(f"prompt {self.source!r}: state must be seven finite numbers, got {state.tolist()}")
        if self.camera is not None and (self.camera.height, self.camera.width) != image.shape[:2]:
            raise ValueError(
                f"prompt {self.source!r}: camera of {self.camera.width}x{self.camera.height} px for a picture of "
                f"{image.shape[1]}x{image.shape[0]} px; resize the camera with PinholeCamera.resized"
            )


@dataclass(frozen=True)
class Extra:
    """What ``choose`` returned beside the actions at one step for some rows (a trace, say)."""

    step: int
    rows: tuple[int, ...]
    value: Any


@dataclass(frozen=True)
class Imagined:
    """N finished rollouts of S steps with CH actions kept in each; T = 1 + S * CH.

    Attributes:
        frames_BTHW3: uint8 RGB at the world's size; frame 0 is the prompt. On disk where a folder was given. After a
            row's end its last frame is repeated.
        states_BT7: integrated states at these frames, float32.
        actions_BSCD: chunks as chosen, float32; zeros after a row's end.
        valid_BT: frames that belong to the rollout.
        steps_B: steps that were taken.
        extras: what ``choose`` returned, in the order of the calls.
        seeds_B: the seed of each row.
        prompts: the prompt of each row.
    """

    frames_BTHW3: Image
    states_BT7: NDArray[np.float32]
    actions_BSCD: NDArray[np.float32]
    valid_BT: NDArray[np.bool_]
    steps_B: NDArray[np.int64]
    extras: tuple[Extra, ...]
    seeds_B: NDArray[np.int64]
    prompts: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def video(self, row: int) -> Image:
        """The valid frames of one rollout, uint8 [T', H, W, 3]."""
        return self.frames_BTHW3[row, : int(self.valid_BT[row].sum())]
