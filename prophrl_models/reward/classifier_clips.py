"""Clips that the success classifier is trained on: which frames of a video, with which labels, in which condition.

A demonstration that succeeded also shows how things fail. Cut early it has not succeeded yet; played back from the
middle the hand returns without having done it; and where something was put down, its picture can be taken away again
or set beside the place where it belongs.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from prophrl_models.reward.classifier_data import DONE, NOT_DONE, LabelledVideo
from prophrl_models.reward.frames import jpeg
from prophrl_models.reward.judge import Video
from prophrl_models.reward.undo import undone


@dataclass(frozen=True)
class ClipOptions:
    """Which clips are drawn from a video, and how they are spoilt.

    Attributes:
        cut: share of successes that are cut somewhere: before the end or before the task was done.
        turn_back: share of successes that are played until some moment before the task was done and then backwards:
            a hand that comes back without having done it.
        head: share of clips that begin later than the video.
        skip: share of clips of released objects that leave out the time in the hand; in half of them what was put down
            is taken away again or lies beside its place (see ``undo``), and nothing was done.
        other_task: share of clips that are shown with another task's instruction.
        blur, resample, ghost, jpeg, noise: shares of clips with that kind of damage, as world models and codecs do.
        shift_px, gain: standard deviations of displacement and of relative exposure and tint.
    """

    cut: float = 0.35
    turn_back: float = 0.3
    head: float = 0.4
    skip: float = 0.3
    other_task: float = 0.05
    blur: float = 0.4
    resample: float = 0.3
    ghost: float = 0.15
    jpeg: float = 0.3
    noise: float = 0.3
    shift_px: float = 2.0
    gain: float = 0.08


def draw_clip(
    video: LabelledVideo, count: int, options: ClipOptions, rng: np.random.Generator
) -> tuple[Video, NDArray[np.int8]]:
    """``count`` frames in some order of time, and a label for each; undamaged still.

    A clip never starts after the task was done: its first frame is what everything else is compared with.
    """
    total, before = len(video.label_T), video.undecided_from
    start = int(rng.integers(0, max(1, before // 2))) if rng.random() < options.head else 0
    if video.success and video.released and video.untouched > 1 and rng.random() < options.skip:
        return _without_the_carry(video, count, start, rng)
    kind, last = rng.random(), total - 1
    if video.success and kind < options.turn_back and before - start >= 4:
        return _played_back(video, count, start, before - 1, rng)
    if video.success and kind < options.turn_back + options.cut:
        last = int(rng.integers(min(start + 1, total - 1), total))
    exact = np.linspace(start, last, count)
    spacing = (last - start) / max(count - 1, 1)
    jitter = rng.uniform(-0.5, 0.5, count) * spacing
    jitter[[0, -1]] = 0.0
    index = np.clip(np.round(exact + jitter), start, last).astype(np.int64)
    return np.asarray(video.frames_THW3[index]), video.label_T[index]


def _played_back(
    video: LabelledVideo, count: int, start: int, latest: int, rng: np.random.Generator
) -> tuple[Video, NDArray[np.int8]]:
    """Forwards to a moment at which the task was not done, then backwards to an earlier one: never done."""
    turn = int(rng.integers(start + (latest - start) // 2, latest + 1))
    back = int(rng.integers(start, turn + 1))
    path = np.concatenate([np.arange(start, turn + 1), np.arange(turn - 1, back - 1, -1)])
    index = path[np.round(np.linspace(0, len(path) - 1, count)).astype(np.int64)]
    return np.asarray(video.frames_THW3[index]), _all(count, NOT_DONE)


def spoil(frames_THW3: Video, options: ClipOptions, rng: np.random.Generator) -> Video:
    """Frames as another light, another camera place, a world model and a codec would show them; a new array.

    In half of the clips the first frame stays sharp: imagined videos begin with a real photograph.
    """
    H, W = frames_THW3.shape[1:3]
    image = frames_THW3.astype(np.float32)
    first = 1 if rng.random() < 0.5 else 0
    if rng.random() < options.ghost:
        image[1:] = 0.7 * image[1:] + 0.3 * image[:-1]
    if rng.random() < options.blur:
        sigma = float(rng.uniform(0.4, 1.1))
        image[first:] = [cv2.GaussianBlur(frame, (0, 0), sigma) for frame in image[first:]]
    if rng.random() < options.resample:
        size = (round(W / rng.uniform(1.2, 1.8)), round(H / rng.uniform(1.2, 1.8)))
        image[first:] = [
            cv2.resize(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), (W, H)) for frame in image[first:]
        ]
    gain = 1.0 + options.gain * rng.standard_normal() + 0.5 * options.gain * rng.standard_normal(3)
    contrast = 1.0 + options.gain * rng.standard_normal()
    image = (image - 112.0) * contrast * gain.astype(np.float32) + 112.0 * gain.astype(np.float32)
    if rng.random() < options.noise:
        image += rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(1.0, 6.0)
    move = np.array([[1, 0, rng.normal() * options.shift_px], [0, 1, rng.normal() * options.shift_px]], np.float32)
    image = np.stack([cv2.warpAffine(frame, move, (W, H), borderMode=cv2.BORDER_REPLICATE) for frame in image])
    spoilt: Video = np.clip(image, 0, 255).astype(np.uint8)
    return _through_jpeg(spoilt, int(rng.integers(40, 95))) if rng.random() < options.jpeg else spoilt


def _through_jpeg(frames_THW3: Video, quality: int) -> Video:
    files = [np.frombuffer(jpeg(frame, quality), np.uint8) for frame in frames_THW3]
    decoded = [np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1] for file in files]
    return np.stack(decoded).astype(np.uint8)


def _all(count: int, value: int) -> NDArray[np.int8]:
    return np.full(count, value, dtype=np.int8)


def _without_the_carry(
    video: LabelledVideo, count: int, start: int, rng: np.random.Generator
) -> tuple[Video, NDArray[np.int8]]:
    """The way to the object, and then what was seen after it had been put down: as it was, or as if it had not been.

    Both jump over the carry in the same way, so the jump says nothing.
    """
    done_from = int(np.flatnonzero(video.label_T == DONE)[0])
    start = min(start, video.untouched - 2)
    after = int(rng.integers(count // 4, count // 2 + 1))
    before = np.sort(rng.integers(start, video.untouched, count - after))
    before[0] = start
    late = np.sort(rng.integers(done_from, len(video.label_T), after))
    frames = np.asarray(video.frames_THW3[np.concatenate([before, late])])
    label_T = video.label_T[np.concatenate([before, late])]
    if rng.random() < 0.5:
        seen = np.asarray(video.frames_THW3[np.linspace(done_from, len(video.label_T) - 1, 6).astype(np.int64)])
        changed = undone(np.asarray(video.frames_THW3[0]), seen, frames[-after:], rng)
        if changed is not None:
            return np.concatenate([frames[:-after], changed]), _all(count, NOT_DONE)
    return frames, label_T
