"""A batch of windows of one dataset, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from calibration.poses import ActionConvention
from prophrl_models.data.mixture_config import MixtureError
from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.windows import Window

DISTORTION = 5
"""Distortion coefficients kept: k1 k2 p1 p2 k3."""

Held = TypeVar("Held", "CameraBatch", "MixtureBatch")


@dataclass(frozen=True)
class CameraBatch:
    """Cameras behind the images of a batch, in pixels of these images.

    Attributes:
        K_B33: float32 intrinsic matrices; identity where there is no camera.
        T_camera_base_BT44: float32, base frame to optical frame, metres, for every frame of the window.
        distortion_B5: float32 ``k1 k2 p1 p2 k3``.
        known_B: whether the episode has a camera at all.
    """

    K_B33: Tensor
    T_camera_base_BT44: Tensor
    distortion_B5: Tensor
    known_B: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CameraBatch:
        """The same on another device."""
        return _changed(self, lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CameraBatch:
        """The same in page-locked memory."""
        return _changed(self, lambda value: value.pin_memory())


@dataclass(frozen=True)
class MixtureBatch:
    """B windows of one dataset; N end-effector rows.

    T is history + 1 + actions in everything that belongs to frames (images, state, ``frame_valid_BT``, cameras), with
    the known frame at index ``history``, and the number of actions in ``action_BTN7`` and ``action_valid_BT``.

    Attributes:
        images_BTHW3: RGB uint8, oldest first.
        state_BTN7: float32 ``[x y z ex ey ez g]``, m, rad, opening 0 closed .. 1 open.
        action_BTN7: float32 in ``convention``; action k leads from frame history + k to the next one.
        effector_mask_BN: bool; rows that are real.
        frame_valid_BT: bool; False where a frame repeats another one or is stale.
        action_valid_BT: bool; False where an action is a hold that was not recorded, or leads through a gap.
        camera: ``None`` where no episode of the batch has one.
        convention: what actions mean, the same in the whole batch.
        rate_hz: frames and actions per second.
        history: frames before the known one.
        source: label of the source in the mixture.
        dataset: its name in the registry.
        instruction: one per window; may be empty.
        episode_id: one per window.
        anchor_B: int64, the known frame's number in its episode.
        number: of the batch in the mixture's sequence.
    """

    images_BTHW3: Tensor
    state_BTN7: Tensor
    action_BTN7: Tensor
    effector_mask_BN: Tensor
    frame_valid_BT: Tensor
    action_valid_BT: Tensor
    camera: CameraBatch | None
    convention: ActionConvention
    rate_hz: float
    history: int
    source: str
    dataset: str
    instruction: tuple[str, ...]
    episode_id: tuple[str, ...]
    anchor_B: Tensor
    number: int

    def __len__(self) -> int:
        return len(self.images_BTHW3)

    @property
    def nbytes(self) -> int:
        """Size of the images in bytes; everything else is small."""
        return self.images_BTHW3.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MixtureBatch:
        """The same on another device."""
        return _changed(self, lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> MixtureBatch:
        """The same in page-locked memory; called by ``torch.utils.data.DataLoader``."""
        return _changed(self, lambda value: value.pin_memory())


def collate(
    entries: Sequence[tuple[GeneralEpisode, Window]],
    *,
    source: str,
    convention: ActionConvention,
    rate_hz: float,
    history: int,
    number: int,
) -> MixtureBatch:
    """Put windows of one source together.

    Raises:
        MixtureError: an episode of another dataset or convention than the rest of the batch.
    """
    episodes, windows = [entry[0] for entry in entries], [entry[1] for entry in entries]
    dataset = episodes[0].source
    for episode in episodes:
        if episode.convention is not convention or episode.source != dataset:
            raise MixtureError(
                f"source {source!r}: episode {episode.episode_id!r} is {episode.source} in {episode.convention.name}, "
                f"the batch is {dataset} in {convention.name}; one batch holds one dataset in one convention"
            )
    shapes = {window.images_THW3.shape for window in windows}
    if len(shapes) != 1:
        raise MixtureError(f"source {source!r}: pictures of different sizes in one dataset: {sorted(shapes)}")
    images = torch.empty((len(windows), *shapes.pop()), dtype=torch.uint8)
    for row, window in zip(images.numpy(), windows, strict=True):
        row[:] = window.images_THW3
    return MixtureBatch(
        images_BTHW3=images,
        state_BTN7=torch.from_numpy(np.stack([window.state_TN7 for window in windows])),
        action_BTN7=torch.from_numpy(np.stack([window.action_AN7 for window in windows])),
        effector_mask_BN=torch.from_numpy(np.stack([episode.effector_mask_N for episode in episodes])),
        frame_valid_BT=torch.from_numpy(np.stack([window.frame_valid_T for window in windows])),
        action_valid_BT=torch.from_numpy(np.stack([window.action_valid_A for window in windows])),
        camera=_cameras(entries),
        convention=convention,
        rate_hz=rate_hz,
        history=history,
        source=source,
        dataset=dataset,
        instruction=tuple(episode.instruction for episode in episodes),
        episode_id=tuple(episode.episode_id for episode in episodes),
        anchor_B=torch.tensor([int(window.frame_T[history]) for window in windows]),
        number=number,
    )


def _cameras(entries: Sequence[tuple[GeneralEpisode, Window]]) -> CameraBatch | None:
    if all(episode.camera is None for episode, _ in entries):
        return None
    count, frames = len(entries), len(entries[0][1].frame_T)
    K = np.tile(np.eye(3, dtype=np.float32), (count, 1, 1))
    T = np.tile(np.eye(4, dtype=np.float32), (count, frames, 1, 1))
    distortion = np.zeros((count, DISTORTION), np.float32)
    known = np.zeros(count, np.bool_)
    for i, (episode, window) in enumerate(entries):
        camera = episode.camera
        if camera is None:
            continue
        known[i], K[i] = True, camera.K
        poses_T44 = episode.camera_poses_T44
        T[i] = camera.T_camera_base if poses_T44 is None else poses_T44[window.frame_T]
        if camera.distortion is not None:
            coefficients = np.asarray(camera.distortion).ravel()
            if len(coefficients) > DISTORTION and coefficients[DISTORTION:].any():
                raise MixtureError(
                    f"{episode.source} episode {episode.episode_id!r}: its lens has {len(coefficients)} distortion "
                    f"coefficients, batches carry the first {DISTORTION}; rectify its pictures first"
                )
            distortion[i, : len(coefficients[:DISTORTION])] = coefficients[:DISTORTION]
    return CameraBatch(*(torch.from_numpy(array) for array in (K, T, distortion, known)))


def _changed(batch: Held, change: Callable[[Any], Any]) -> Held:
    """A copy in which every tensor went through ``change``."""
    values = {entry.name: getattr(batch, entry.name) for entry in fields(batch)}
    changed: dict[str, Any] = {
        name: change(value) for name, value in values.items() if isinstance(value, Tensor | CameraBatch)
    }
    return replace(batch, **changed)
