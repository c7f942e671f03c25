"""Windows of an episode: past frames, the frame that is known, and the frames and actions that follow it.

offset     -history ... -1    0     1 ... actions
frames      what was seen   known   what a world model predicts
actions                      0  ...  actions - 1     (action k leads from frame k to frame k + 1)

Offsets count frames that are ``stride`` apart. Where the episode has no frame:
- before its start, the earliest frame of the window is repeated (design specification 4.6: a rollout starts with a
  history of copies of its first frame);
- after its end (only with ``min_actions``), the last frame is repeated, and the action is a hold: zero motion, the last
  opening.
Masks say what is real.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, wrap_angle
from prophrl_models.data.image import Image
from prophrl_models.data.registry.general import GeneralEpisode


@dataclass(frozen=True)
class WindowRule:
    """What a window is.

    Attributes:
        history: frames before the known one; the paper's world model sees 60.
        actions: actions, and frames to predict; the paper's chunk has 20.
        min_actions: windows with at least so many real actions are taken, and padded; ``None``: only complete ones.
        step: frames from the start of one window to the start of the next.
        stride: frames of the episode from one frame of the window to the next.
    """

    history: int = 60
    actions: int = 20
    min_actions: int | None = None
    step: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("history", self.history, 0),
            ("actions", self.actions, 1),
            ("step", self.step, 1),
            ("stride", self.stride, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.min_actions is not None and not 1 <= self.min_actions <= self.actions:
            raise ValueError(f"min_actions must lie in 1..{self.actions} (actions), got {self.min_actions}")

    @property
    def frames(self) -> int:
        """Frames of a window, T."""
        return self.history + 1 + self.actions

    @property
    def real_actions(self) -> int:
        """Actions that every window has."""
        return self.actions if self.min_actions is None else self.min_actions

    @property
    def shortest(self) -> int:
        """Frames of the shortest episode that has a window."""
        return self.real_actions * self.stride + 1

    def count(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows of episodes of these lengths.

        The last frame never needs a known action (``GeneralEpisode.actions_known`` is T - 1 or T): what follows it was
        not seen.
        """
        anchors = np.maximum(frames - self.shortest + 1, 0)
        return np.asarray(-(-anchors // self.step), dtype=np.int64)

    def anchor(self, window: int) -> int:
        """The known frame of an episode's window number ``window``."""
        return window * self.step


@dataclass(frozen=True)
class Window:
    """One window; T = history + 1 + actions frames, A = actions.

    Attributes:
        images_THW3: RGB uint8.
        state_TN7: float32.
        action_AN7: float32 in the episode's convention.
        frame_T: which frames of the episode these are.
        frame_valid_T: False where a frame is a repetition, or stale (near a gap in the recording).
        action_valid_A: False where an action is a hold that was not recorded, or leads through such a gap.
    """

    images_THW3: Image
    state_TN7: NDArray[np.float32]
    action_AN7: NDArray[np.float32]
    frame_T: NDArray[np.int64]
    frame_valid_T: NDArray[np.bool_]
    action_valid_A: NDArray[np.bool_]


def cut(episode: GeneralEpisode, anchor: int, rule: WindowRule) -> Window:
    """The window whose known frame is ``anchor``; only its frames are decoded, each once.

    Raises:
        ValueError: the episode has too few known actions after that frame.
    """
    stride = rule.stride
    last = min(episode.actions_known, len(episode) - 1)
    real = min(rule.actions, (last - anchor) // stride)
    if anchor < 0 or real < rule.real_actions:
        raise ValueError(
            f"{episode.source} episode {episode.episode_id!r}: no window at frame {anchor}; {rule.real_actions} "
            f"actions of {stride} frame(s) are needed, {max(last - anchor, 0)} frames follow"
        )
    past = min(rule.history, anchor // stride)
    offset_T = np.arange(-rule.history, rule.actions + 1)
    kept_T = np.clip(offset_T, -past, real)
    frame_T = anchor + kept_T * stride
    images = episode.images_THW3[anchor - past * stride : anchor + real * stride + 1 : stride]
    if len(images) != rule.frames:
        images = images[kept_T + past]
    steps = episode.action_TN7[anchor : anchor + real * stride]
    action_AN7 = np.zeros((rule.actions, *steps.shape[1:]), np.float32)
    action_AN7[:real] = compose(steps.reshape(real, stride, *steps.shape[1:]), episode.convention)
    action_AN7[real:, :, 6] = action_AN7[real - 1, :, 6]
    action_valid_A = np.arange(rule.actions) < real
    if episode.step_valid_T is not None:
        action_valid_A[:real] &= episode.step_valid_T[anchor : anchor + real * stride].reshape(real, stride).all(axis=1)
    return Window(
        images,
        episode.state_TN7[frame_T],
        action_AN7,
        frame_T,
        (kept_T == offset_T) & episode.frame_valid_T[frame_T],
        action_valid_A,
    )


def known_actions(episode: GeneralEpisode, stride: int) -> NDArray[np.float32]:
    """Every known action of an episode over ``stride`` frames [K, N, 7], one for each frame it can start at."""
    known = episode.action_TN7[: episode.actions_known]
    if len(known) < stride:
        return np.zeros((0, *known.shape[1:]), np.float32)
    runs = np.lib.stride_tricks.sliding_window_view(known, stride, axis=0)  # [K, N, 7, stride]
    return compose(np.moveaxis(runs, -1, 1), episode.convention)


def compose(action_KSN7: NDArray[np.float32], convention: ActionConvention) -> NDArray[np.float32]:
    """Each S consecutive actions as the one that leads to the same pose [K, N, 7]; the opening is the last one.

    The counterpart of ``calibration.poses.integrate``: integrating the result moves as integrating the S actions does.
    """
    count, steps, effectors = action_KSN7.shape[:3]
    if steps == 1:
        return np.array(action_KSN7[:, 0])
    flat = np.moveaxis(action_KSN7, 1, 0).reshape(steps, count * effectors, 7).astype(np.float64)
    result = np.zeros(flat.shape[1:])
    result[:, 6] = flat[-1, :, 6]
    if not len(result):
        return result.reshape(count, effectors, 7).astype(np.float32)
    if convention is ActionConvention.ABSOLUTE_POSE_DIFFERENCE:
        result[:, :6] = flat[:, :, :6].sum(axis=0)
        result[:, 3:6] = wrap_angle(result[:, 3:6])
    elif convention is ActionConvention.LOCAL_FRAME_DELTA:
        turned = Rotation.identity(len(result))
        for step in flat:
            result[:, :3] += turned.apply(step[:, :3])
            turned = turned * Rotation.from_euler("xyz", step[:, 3:6])
        result[:, 3:6] = turned.as_euler("xyz")
    else:
        result[:, :3] = flat[:, :, :3].sum(axis=0)
        turned = Rotation.identity(len(result))
        for step in flat:
            turned = Rotation.from_rotvec(step[:, 3:6]) * turned
        result[:, 3:6] = turned.as_rotvec()
    return result.reshape(count, effectors, 7).astype(np.float32)
