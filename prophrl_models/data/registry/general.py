"""One episode of any dataset, in one form: what world-model pre-training and dataset mixtures read.

The axis N (end-effectors) is always 2, the most any dataset of the paper has; single-arm episodes leave the second
row zero (design specification 2.1). Actions follow ``calibration.poses.ActionConvention``; openings are 0
closed, 1 open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from prophrl_models.data.episode import ACTION_DIM, STATE_DIM
from prophrl_models.data.image import Image
from prophrl_models.data.registry.errors import RegistryError

EFFECTORS = 2
"""Rows of the end-effector axis N in every general episode."""


class Images(Protocol):
    """RGB uint8 [T, H, W, 3] that is decoded where it is indexed; a NumPy array is one, too."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[np.uint8]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | slice) -> Image: ...


@dataclass(frozen=True)
class GeneralEpisode:
    """T frames with the state at each and the action that leads from it to the next.

    Attributes:
        images_THW3: RGB uint8, read lazily.
        state_TN7: float32 ``[x y z ex ey ez g]`` per end-effector: pose in the dataset's base frame (metres, extrinsic
            xyz radians) and opening. Euler angles are zero where the dataset stores no orientation.
        action_TN7: float32 ``[dx dy dz dex dey dez g]`` in ``convention``.
        effector_mask_N: which rows of N are real.
        instruction: what to do, in words; empty where the dataset has none.
        convention: what the six pose numbers of an action mean.
        rate_hz: frames and actions per second, as recorded.
        camera: the camera behind ``images_THW3`` at their resolution, its base frame that of ``state_TN7``; ``None``
            means that only the scalar action stream can be trained.
        source: the dataset's name in the registry.
        episode_id: unique inside the dataset.
        actions_known: how many leading actions are data. T - 1 where actions are differences of measured poses: no
            pose follows the last frame, and its action is a hold (zero motion, same opening) that nothing should learn.
        camera_poses_T44: ``T_camera_base`` per frame where the camera moves (AgiBot's head); else ``None``.
        step_valid_T: False where the step from a frame to the next lies near a gap in the recording; ``None``: the
            dataset does not say, and all count.

    Raises:
        RegistryError: shapes, types or values that contradict the above.
    """

    images_THW3: Images
    state_TN7: NDArray[np.float32]
    action_TN7: NDArray[np.float32]
    effector_mask_N: NDArray[np.bool_]
    instruction: str
    convention: ActionConvention
    rate_hz: float
    camera: PinholeCamera | None
    source: str
    episode_id: str
    actions_known: int = -1
    camera_poses_T44: NDArray[np.float64] | None = None
    step_valid_T: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        steps = len(self.images_THW3)
        if self.actions_known < 0:
            object.__setattr__(self, "actions_known", steps)
        self._check_images(steps)
        for name, array, width in (
            ("state_TN7", self.state_TN7, STATE_DIM),
            ("action_TN7", self.action_TN7, ACTION_DIM),
        ):
            self._check_numbers(name, array, (steps, EFFECTORS, width))
        if self.effector_mask_N.shape != (EFFECTORS,) or self.effector_mask_N.dtype != np.bool_:
            self._refuse(f"effector_mask_N is bool [{EFFECTORS}], got {self.effector_mask_N!r}")
        if not self.effector_mask_N.any():
            self._refuse("no end-effector is real: effector_mask_N is all False")
        unused = ~self.effector_mask_N
        if self.state_TN7[:, unused].any() or self.action_TN7[:, unused].any():
            self._refuse("rows of end-effectors that the mask leaves out must be zero")
        if not isinstance(self.convention, ActionConvention):
            self._refuse(f"convention must be one of {[c.name for c in ActionConvention]}, got {self.convention!r}")
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            self._refuse(f"rate_hz must be positive, got {self.rate_hz}")
        if not steps - 1 <= self.actions_known <= steps:
            self._refuse(f"actions_known must be {steps - 1} or {steps} for {steps} frames, got {self.actions_known}")
        self._check_camera(steps)
        valid = self.step_valid_T
        if valid is not None and (valid.shape != (steps,) or valid.dtype != np.bool_):
            self._refuse(f"step_valid_T is bool [{steps}], got {valid.dtype} {valid.shape}")

    def __len__(self) -> int:
        return len(self.images_THW3)

    @property
    def duration_s(self) -> float:
        """Time from the first frame to the last."""
        return (len(self) - 1) / self.rate_hz

    @property
    def frame_valid_T(self) -> NDArray[np.bool_]:
        """Frames [T] that at least one valid step begins or ends with; the others may be stale copies."""
        if self.step_valid_T is None:
            return np.ones(len(self), np.bool_)
        seen: NDArray[np.bool_] = self.step_valid_T.copy()
        seen[1:] |= self.step_valid_T[:-1]
        return seen

    def camera_at(self, step: int) -> PinholeCamera | None:
        """The camera of one frame, also where it moves."""
        if self.camera is None or self.camera_poses_T44 is None:
            return self.camera
        return replace(self.camera, T_camera_base=self.camera_poses_T44[step])

    def _check_images(self, steps: int) -> None:
        shape = self.images_THW3.shape
        if len(shape) != 4 or shape[3] != 3 or self.images_THW3.dtype != np.uint8:
            self._refuse(f"images_THW3 is RGB uint8 [T, H, W, 3], got {self.images_THW3.dtype} {shape}")
        if steps < 2:
            self._refuse(f"an episode has at least 2 frames, got {steps}; leave it out of the mixture")

    def _check_numbers(self, name: str, array: NDArray[np.float32], shape: tuple[int, ...]) -> None:
        if array.shape != shape or array.dtype != np.float32:
            self._refuse(f"{name} is float32 {shape}, got {array.dtype} {array.shape}")
        bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
        if len(bad):
            self._refuse(f"{name} is not finite at frame {bad[0]} ({len(bad)} frames in all)")
        opening = array[..., -1]
        if opening.min() < 0.0 or opening.max() > 1.0:
            self._refuse(
                f"openings in {name} lie in 0 (closed) .. 1 (open), got {opening.min():g} .. {opening.max():g}; "
                "check the gripper mapping of the dataset's spec"
            )

    def _check_camera(self, steps: int) -> None:
        height, width = self.images_THW3.shape[1:3]
        if self.camera is not None and (self.camera.width, self.camera.height) != (width, height):
            self._refuse(
                f"the camera is of {self.camera.width}x{self.camera.height} pixels, the images of {width}x{height}; "
                "resize the camera with the same ResolutionRule as the images"
            )
        if self.camera_poses_T44 is not None and self.camera_poses_T44.shape != (steps, 4, 4):
            self._refuse(f"camera_poses_T44 is [{steps}, 4, 4], got {self.camera_poses_T44.shape}")

    def _refuse(self, problem: str) -> None:
        raise RegistryError(f"{self.source} episode {self.episode_id!r}: {problem}")
