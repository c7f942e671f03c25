"""Does the world model do what it is told? The same first frames and noise, other actions.

true       the logged actions
shuffled   those of another clip, of another episode where there is one
hold       no motion, the opening stays as it is
opposite   every motion reversed in sign, openings as logged

Videos are compared with the real one (true actions must score clearly better) and with the video generated from the
true actions (other actions must give another video). The second needs a yardstick, because a sampler gives another
video for other noise, too: the true actions once more with other noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prophrl_models.prophet.eval_data import Clip, ClipReader, EvaluationError
from prophrl_models.prophet.flow_metrics import compare_flow, farneback
from prophrl_models.prophet.metrics import METRICS, Array
from prophrl_models.prophet.playback import Actions, play
from prophrl_models.prophet.rollout import ImaginedWorld
from prophrl_models.prophet.scores import Paired, Scores, score_frames

TRUE, SHUFFLED, HOLD, OPPOSITE, OTHER_NOISE = "true", "shuffled", "hold", "opposite", "true, other noise"
CHOICES = (TRUE, SHUFFLED, HOLD, OPPOSITE)
VERDICT_METRICS = ("epe_px", "epe_moving_px", "cosine_moving", "psnr_db")


@dataclass(frozen=True)
class Sensitivity:
    """What other actions change, over one chunk from each of N clips.

    Attributes:
        scores: against the real video, for each of ``CHOICES``.
        apart_grey: mean absolute difference to the video of the true actions in grey levels (0..255) [N], for the other
            choices and ``OTHER_NOISE``.
        apart_px: end-point error between the two videos' flows [N], for the same.
    """

    scores: dict[str, Scores]
    apart_grey: dict[str, Array]
    apart_px: dict[str, Array]

    def paired(self, choice: str, metric: str) -> Paired:
        """By how much the true actions beat a choice in a metric, clip by clip; positive is better."""
        sign = 1.0 if METRICS[metric].higher_is_better else -1.0
        true, other = self.scores[TRUE].per_clip(metric), self.scores[choice].per_clip(metric)
        return Paired.of(sign * other, sign * true)

    @property
    def follows(self) -> bool:
        """True actions beat shuffled ones clearly, in end-point error and in direction."""
        return all(self.paired(SHUFFLED, metric).clear for metric in ("epe_px", "cosine_moving"))

    @property
    def responds(self) -> bool:
        """Shuffled actions change the video's motion clearly more than other noise does."""
        return Paired.of(self.apart_px[OTHER_NOISE], self.apart_px[SHUFFLED]).clear


def measure_sensitivity(
    world: ImaginedWorld, reader: ClipReader, clips: Sequence[Clip], *, batch: int, seed: int = 0
) -> Sensitivity:
    """Play one chunk from each clip with each choice of actions.

    Raises:
        EvaluationError: fewer than two clips, so nothing can be shuffled.
    """
    partner = partners(clips)

    def shuffled(clip: int, first: int, count: int) -> NDArray[np.float32]:
        return reader.actions(clips[partner[clip]], first, count)

    def hold(clip: int, first: int, count: int) -> NDArray[np.float32]:
        still = np.zeros((count, 7), np.float32)
        still[:, 6] = reader.state(clips[clip])[6]
        return still

    def opposite(clip: int, first: int, count: int) -> NDArray[np.float32]:
        logged = reader.actions(clips[clip], first, count)
        logged[:, :6] *= -1.0
        return logged

    ways: dict[str, tuple[Actions | None, int]] = {TRUE: (None, seed), SHUFFLED: (shuffled, seed)}
    ways |= {HOLD: (hold, seed), OPPOSITE: (opposite, seed), OTHER_NOISE: (None, seed + 1)}
    runs = [
        play(world, reader, clips, chunks=1, batch=batch, seed=noise, actions=actions)
        for actions, noise in ways.values()
    ]
    scores = {choice: Scores(len(clips), world.actions) for choice in CHOICES}
    others = [way for way in ways if way != TRUE]
    grey = {way: np.full(len(clips), np.nan) for way in others}
    pixels = {way: np.full(len(clips), np.nan) for way in others}
    for together in zip(*runs, strict=True):  # the same batch in every way
        played = dict(zip(ways, together, strict=True))
        for row, clip in enumerate(played[TRUE].rows):
            real = reader.frames(clips[clip], 0, world.actions + 1)
            true = played[TRUE].generated(row)
            true_flow = farneback(true)
            for way in ways:
                video = played[way].generated(row)
                if way in scores:
                    scores[way].put(clip, 0, score_frames(real, video), clips[clip].frames)
                if way != TRUE:
                    grey[way][clip] = np.abs(video[1:].astype(np.int16) - true[1:]).mean()
                    pixels[way][clip] = compare_flow(true_flow, farneback(video))["epe_px"].mean()
    return Sensitivity(scores, grey, pixels)


def partners(clips: Sequence[Clip]) -> tuple[int, ...]:
    """For each clip another one whose actions it can be given: a permutation without fixed points.

    Clips are put in the order of their episodes and shifted by half their number, so a partner belongs to another
    episode unless one episode holds more than half of all clips.

    Raises:
        EvaluationError: fewer than two clips.
    """
    if len(clips) < 2:
        raise EvaluationError(f"shuffling actions needs at least 2 windows, got {len(clips)}; evaluate more windows")
    order = sorted(range(len(clips)), key=lambda k: (clips[k].position, clips[k].start))
    result = [0] * len(clips)
    for place, clip in enumerate(order):
        result[clip] = order[(place + len(order) // 2) % len(order)]
    return tuple(result)
