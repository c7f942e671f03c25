"""Latents of a dataset on disk: what the world model trains on, encoded once.

<folder>/<first 16 digits of the key>/
    cache.json              the key's parts; written first
    episodes/000000/        complete or absent, so an interrupted build goes on where it stopped
        steps.npz           action_T7 valid_T state_F7 (F = T + 1 frames: the observation after the last action counts)
        image_*.npy         latents of the pictures, float16
        action_*.npy        latents of the rendered action frames, float16; only where asked for
        episode.json        hash of every array

With a group-wise codec (each latent depends on its own four frames only) ``group_GChw`` holds the group that ends with
each frame: row g the frames g - 3 .. g, clipped to the episode, G = F + 3. Of action frames ``single_FChw`` holds each
alone, too. Every window is then a selection of rows. Other codecs see a clip as a whole, so whole windows are stored:
``clip_NCLhw``, ``history_NCMhw``.

What a window is, and what is repeated where an episode has no frame: ``data.windows``. A window's last actions may be
holds that were not recorded (zero motion, last opening); the masks say so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.files import array_sha256
from prophrl_models.data.windows import WindowRule

FORMAT = 1
GROUP = 4
"""Frames behind one latent frame."""
CACHE_FILE, EPISODE_FILE, STEPS_FILE, EPISODES = "cache.json", "episode.json", "steps.npz", "episodes"

Latents = NDArray[np.float16]


class LatentError(ValueError):
    """Latents that cannot be made or used; the message says what to do."""


@dataclass(frozen=True)
class LatentSpec:
    """What is encoded.

    Attributes:
        image_height, image_width: pictures are resized to this size (by area) before they are encoded.
        codec_hash: identifies the codec's weights.
        action_frames: encode rendered action frames too.
        rule: the windows; ``stride`` must be 1.
        plumb_line: action frames also show what lies straight below the TCP.
    """

    image_height: int
    image_width: int
    codec_hash: str
    action_frames: bool
    rule: WindowRule
    plumb_line: bool = False

    def __post_init__(self) -> None:
        if self.rule.stride != 1:
            raise LatentError(f"latents are made of consecutive frames, the rule has stride {self.rule.stride}; use 1")
        if self.rule.actions % GROUP or self.rule.history % GROUP:
            raise LatentError(
                f"history ({self.rule.history}) and actions ({self.rule.actions}) must be multiples of {GROUP}, the "
                "frames behind one latent"
            )


@dataclass(frozen=True)
class LatentWindow:
    """One window, or B of them with a leading axis; A actions, L = 1 + A / 4 latent frames, M = history / 4.

    Attributes:
        clip_CLhw: float16; the first latent frame is the known frame alone, or with a groupwise codec the four frames
            that end with it.
        history_CMhw: float16, oldest first.
        frame_CLhw: float16 latents of the action frames, None where they were not encoded.
        action_A7: float32, environment units, the dataset's convention.
        action_valid_A: False where the action is a hold that was not recorded.
        latent_valid_L: False where a latent frame holds a picture that was not recorded; True for the known frame.
    """

    clip_CLhw: Latents
    history_CMhw: Latents
    frame_CLhw: Latents | None
    action_A7: NDArray[np.float32]
    action_valid_A: NDArray[np.bool_]
    latent_valid_L: NDArray[np.bool_]


def usable_anchors(valid_T: NDArray[np.bool_], rule: WindowRule) -> NDArray[np.int64]:
    """First frames [N] of an episode's windows: all their recorded actions are valid, at least ``real_actions``."""
    steps = len(valid_T)
    wrong_before = np.concatenate([[0], np.cumsum(~valid_T)])
    anchor = np.arange(0, max(0, steps - rule.real_actions + 1), rule.step)
    end = np.minimum(anchor + rule.actions, steps)
    return np.asarray(anchor[wrong_before[end] == wrong_before[anchor]], dtype=np.int64)


class LatentCache:
    """The encoded windows of one dataset; see the module's docstring for the files.

    Attributes:
        spec: what was encoded.
        dataset_hash: of the dataset it was made from.
        window_NI: int64 [N, 2], (episode position, known frame) of every window.
    """

    def __init__(self, folder: str | Path, rule: WindowRule | None = None) -> None:
        """Open a complete cache and check every array against its hash.

        Args:
            rule: another window rule than it was made with; only for latents of a group-wise codec.

        Raises:
            LatentError: missing, unfinished, of another format, changed, or without the windows of that rule.
        """
        self.folder = Path(folder)
        parts = _read(self.folder / CACHE_FILE)
        if parts.get("format") != FORMAT:
            raise LatentError(f"{self.folder} has format {parts.get('format')!r}, this version reads {FORMAT}")
        try:
            spec = dict(parts["spec"])
            self.spec = LatentSpec(**{**spec, "rule": WindowRule(**spec["rule"])})
            self.dataset_hash, self.groupwise = str(parts["dataset_hash"]), bool(parts["groupwise"])
            count = int(parts["episodes"])
        except (KeyError, TypeError) as error:
            raise LatentError(f"{self.folder / CACHE_FILE} is damaged ({error!r}); delete the folder") from error
        if rule is not None and rule != self.spec.rule:
            if not self.groupwise:
                raise LatentError(f"{self.folder} holds windows of {self.spec.rule}, not of {rule}; build it anew")
            self.spec = replace(self.spec, rule=rule)
        self._episodes = [_open_episode(self.folder / EPISODES / f"{i:06d}") for i in range(count)]
        found = []
        for position, arrays in enumerate(self._episodes):
            anchors = usable_anchors(arrays["valid_T"], self.spec.rule)
            found.append(np.stack([np.full(len(anchors), position), anchors], axis=1))
        self.window_NI = np.concatenate(found).astype(np.int64)
        self._first_N = np.concatenate([[0], np.cumsum([len(windows) for windows in found])])
        if not len(self.window_NI):
            raise LatentError(f"{self.folder}: no episode has {self.spec.rule.real_actions} valid actions in a row")

    def __len__(self) -> int:
        return len(self.window_NI)

    @cached_property
    def event_N(self) -> NDArray[np.bool_]:
        """Windows in whose recorded actions the commanded opening changes: where contact begins or ends."""
        changes = []
        for arrays in self._episodes:
            opening = arrays["action_T7"][:, 6]
            changes.append(np.abs(np.diff(opening, prepend=opening[:1])) > 0.05)
        rule = self.spec.rule
        return np.array([bool(changes[e][t : t + rule.actions].any()) for e, t in self.window_NI], dtype=np.bool_)

    def window(self, index: int) -> LatentWindow:
        """Window number ``index``."""
        position, anchor = (int(value) for value in self.window_NI[index])
        if self.groupwise:
            return self.at(position, anchor)
        arrays = self._episodes[position]
        row = index - int(self._first_N[position])
        clip = np.array(arrays["image_clip_NCLhw"][row])
        history = np.array(arrays["image_history_NCMhw"][row]) if self.spec.rule.history else clip[:, :0]
        frame = np.array(arrays["action_clip_NCLhw"][row]) if self.spec.action_frames else None
        return self._with_actions(position, anchor, clip, history, frame)

    def at(self, position: int, anchor: int) -> LatentWindow:
        """The window of an episode whose known frame is ``anchor``, also where the rule would not have one.

        Raises:
            LatentError: these latents were not encoded group by group, so only their own windows are known.
        """
        if not self.groupwise:
            raise LatentError(f"{self.folder} holds whole windows only; ask for one of them by its number")
        arrays, rule = self._episodes[position], self.spec.rule
        future = anchor + np.arange(1, rule.actions + 1, GROUP)
        known = np.array([anchor + 1 - GROUP])
        past = known[0] + np.arange(-rule.history, 0, GROUP)
        clip = self._groups("image", arrays, np.concatenate([known, future]))
        history = self._groups("image", arrays, past)
        frame = self._drawn(arrays, anchor, future) if self.spec.action_frames else None
        return self._with_actions(position, anchor, clip, history, frame)

    def windows(self, indexes: Sequence[int]) -> LatentWindow:
        """Several windows, every array with a leading axis B."""
        each = [self.window(int(index)) for index in indexes]
        frames = [window.frame_CLhw for window in each if window.frame_CLhw is not None]
        return LatentWindow(
            np.stack([window.clip_CLhw for window in each]),
            np.stack([window.history_CMhw for window in each]),
            np.stack(frames) if frames else None,
            np.stack([window.action_A7 for window in each]),
            np.stack([window.action_valid_A for window in each]),
            np.stack([window.latent_valid_L for window in each]),
        )

    def _with_actions(
        self, position: int, anchor: int, clip: Latents, history: Latents, frame: Latents | None
    ) -> LatentWindow:
        """A window's latents with its actions, holds where none were recorded, and what is real of both."""
        action_T7, count = self._episodes[position]["action_T7"], self.spec.rule.actions
        real = min(count, len(action_T7) - anchor)
        action = np.zeros((count, 7), np.float32)
        action[:real] = action_T7[anchor : anchor + real]
        action[real:, 6] = action[real - 1, 6]
        last_L = GROUP * np.arange(1 + count // GROUP)  # offset of the last frame behind each latent
        return LatentWindow(clip, history, frame, action, np.arange(count) < real, last_L <= real)

    def _groups(self, kind: str, arrays: dict[str, Any], first_L: NDArray[np.int64]) -> Latents:
        """Latents [C, L, h, w] of the groups that begin at these frames, which may lie outside the episode."""
        stored = arrays[f"{kind}_group_GChw"]
        rows = np.clip(first_L + GROUP - 1, 0, len(stored) - 1)
        return np.moveaxis(stored[rows], 0, 1)

    def _drawn(self, arrays: dict[str, Any], anchor: int, future_L: NDArray[np.int64]) -> Latents:
        """Latents [C, L, h, w] of action frames: the known pose alone, as it is all that is known of the past."""
        known = arrays["action_single_FChw"][anchor][:, None]
        return np.concatenate([known, self._groups("action", arrays, future_L)], axis=1)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise LatentError(f"{path} cannot be read ({error}); build the cache with 'prophrl prophet cache'") from error
    if not isinstance(value, dict):
        raise LatentError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _open_episode(folder: Path) -> dict[str, Any]:
    """Arrays of an episode: small ones in memory, latents memory-mapped; all compared with their hashes."""
    hashes = _read(folder / EPISODE_FILE).get("hashes", {})
    try:
        with np.load(folder / STEPS_FILE) as stored:
            arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
        for name in sorted(set(hashes) - set(arrays)):
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise LatentError(f"{folder} is damaged ({error}); delete it and build the cache again") from error
    for name, array in arrays.items():
        if array_sha256(array) != hashes.get(name):
            raise LatentError(f"{folder}: {name} was changed or damaged; delete the folder and build the cache again")
    return arrays
