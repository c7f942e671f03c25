"""Logged episodes imagined again: the same actions in the world model, and whether the outcome is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH
from prophrl_models.policies.interface import ObservationBatch
from prophrl_models.prophet.motion import integrated
from prophrl_models.prophet.rollout import ImaginedWorld, Prompt, imagine
from prophrl_models.reward.attempts import Attempt, judge_attempts
from prophrl_models.reward.judge import Confusion, Judge
from prophrl_models.rl.judged import trajectory_of
from prophrl_models.rl.seen import NONE_SEEN, SeenInTraining
from prophrl_models.rl.starts import dataset_starts
from prophrl_models.training.settings import TrainingError

KNOWN_OUTCOMES = {"success": True, "failure": False}


@dataclass(frozen=True)
class LoggedEpisode:
    """What was done, and what came of it.

    Attributes:
        prompt: first picture, state and instruction.
        actions_T7: executed actions in the world's convention, environment units.
        success: what happened.
        frames_THW3: the real pictures (T + 1, the last one after the last action), to tell the judge's mistakes from
            the world's; None where they are not at hand.
        seen_by_judge, seen_by_world: they were trained on it.
    """

    prompt: Prompt
    actions_T7: NDArray[np.float32]
    success: bool
    frames_THW3: NDArray[np.uint8] | None = None
    seen_by_judge: bool = False
    seen_by_world: bool = False

    def __post_init__(self) -> None:
        actions = self.actions_T7
        if actions.ndim != 2 or actions.shape[1] != 7 or not len(actions) or not np.isfinite(actions).all():
            raise ValueError(f"episode {self.prompt.source!r}: actions must be finite [T, 7], got {actions.shape}")


def logged_episodes(
    dataset: Dataset,
    *,
    most: int = 0,
    seed: int = 0,
    camera: PinholeCamera | None = None,
    height: int = POLICY_HEIGHT,
    width: int = POLICY_WIDTH,
    seen: SeenInTraining = NONE_SEEN,
    frames: bool = True,
) -> list[LoggedEpisode]:
    """Episodes of a dataset whose outcome is known and whose actions are to be trusted throughout.

    Args:
        most: at most so many, drawn by ``seed`` with as many failures as successes as there are; 0: all. Those that
            neither judge nor world has seen come first, then those that one of them has.
        camera: of the policy images; each episode's own calibration when omitted.
        height, width: size of the prompts' pictures.
        seen: what judge and world were trained on.
        frames: read the real pictures too, 35 MB for 15 s.

    Raises:
        TrainingError: no episode fits.
    """
    prompts = {prompt.source: prompt for prompt in dataset_starts(dataset, camera=camera, height=height, width=width)}
    places: list[dict[bool, list[int]]] = [{True: [], False: []} for _ in range(3)]  # by how many have seen them
    witnesses: dict[int, tuple[bool, bool]] = {}
    for position, row in enumerate(dataset.table):
        usable = row.episode_id in prompts and row.valid_steps == row.steps
        if row.outcome in KNOWN_OUTCOMES and usable:
            witnesses[position] = (seen.by_judge(row), seen.by_world(row, dataset.content_hash))
            places[sum(witnesses[position])][KNOWN_OUTCOMES[row.outcome]].append(position)
    if not witnesses:
        raise TrainingError(
            f"{dataset.folder} has no gapless episode marked success or failure; build it with failures, too "
            "('prophrl dataset build' takes the outcomes to keep)"
        )
    chosen: list[int] = []
    for of_rank in places:
        if not most or len(chosen) < most:
            chosen += _balanced(of_rank[True], of_rank[False], most and most - len(chosen), seed)
    episodes = []
    for position in sorted(chosen):
        row, episode = dataset.table[position], dataset[position]
        real = np.concatenate([np.asarray(episode.color_THW3), episode.final.image_HW3[None]]) if frames else None
        actions = np.asarray(episode.action_T7, np.float32)
        outcome = KNOWN_OUTCOMES[row.outcome]
        episodes.append(LoggedEpisode(prompts[row.episode_id], actions, outcome, real, *witnesses[position]))
    return episodes


def joined_episodes(
    datasets: Sequence[Dataset], *, most: int = 0, seed: int = 0, seen: SeenInTraining = NONE_SEEN
) -> list[LoggedEpisode]:
    """Such episodes of several datasets: of each, newest (last) first, an equal share of ``most``, as far as it has.

    Raises:
        TrainingError: no episode fits in any of them.
    """
    found: list[LoggedEpisode] = []
    failures = []
    for place, dataset in enumerate(reversed(datasets)):
        share = -(-(most - len(found)) // (len(datasets) - place)) if most else 0
        if most and not share:
            break
        try:
            found += logged_episodes(dataset, most=share, seed=seed, seen=seen)
        except TrainingError as error:
            failures.append(str(error))
    if not found:
        raise TrainingError("; ".join(failures))
    return found


def replay_videos(
    world: ImaginedWorld, episodes: Sequence[LoggedEpisode], *, keep: int = 0, seed: int = 0, batch: int = 16
) -> list[NDArray[np.uint8]]:
    """Imagined videos uint8 [T + 1, H, W, 3] of the episodes' own actions, at the world's size.

    Args:
        keep: actions that the world takes at a time, knowing those that follow, as in rollouts with this ``keep``; 0:
            as many as it can. Every time it looks at its own last frame again, so small ones are harder.

    Raises:
        ValueError: no episodes, ones that the world cannot begin with, or a ``keep`` beyond the world's actions.
    """
    if not episodes:
        raise ValueError("nothing to replay; record or import episodes with a known outcome")
    if not 0 <= keep <= world.actions:
        raise ValueError(f"keep must lie in 0..{world.actions}, the actions of the world model; got {keep}")
    videos: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(episodes)
    keep = keep or world.actions
    # Episodes of one length in calls share a batch: a short one must not wait for, or outlive, a long one.
    by_calls: dict[int, list[int]] = {}
    for place, episode in enumerate(episodes):
        by_calls.setdefault(-(-len(episode.actions_T7) // keep), []).append(place)
    for calls, places in by_calls.items():
        length = (calls - 1) * keep + world.actions
        plans = torch.from_numpy(np.stack([_padded(episodes[p].actions_T7, length) for p in places]))

        def choose(obs: ObservationBatch, rows: list[int], step: int, plans: Tensor = plans) -> tuple[Tensor, None]:
            return plans[rows, step * keep : step * keep + world.actions], None

        imagined = imagine(
            world,
            [episodes[p].prompt for p in places],
            choose,
            steps=calls,
            keep=keep,
            seeds=[seed + p for p in places],
            batch=batch,
        )
        for row, place in enumerate(places):
            videos[place] = np.asarray(imagined.frames_BTHW3[row, : len(episodes[place].actions_T7) + 1])
    return videos


def logged_attempts(
    videos: Sequence[NDArray[np.uint8]], episodes: Sequence[LoggedEpisode], convention: ActionConvention
) -> list[Attempt]:
    """One for each episode with its video, filmed or imagined; ``convention`` is that of the actions."""
    attempts = []
    for video, episode in zip(videos, episodes, strict=True):
        state_7 = np.asarray(episode.prompt.state_7)
        state_T7 = integrated(state_7[None], episode.actions_T7[None], convention)[0]
        attempts.append(Attempt(video, episode.prompt.instruction, trajectory_of(episode.prompt, state_T7)))
    return attempts


def compare_outcomes(
    judge: Judge,
    videos: Sequence[NDArray[np.uint8]],
    episodes: Sequence[LoggedEpisode],
    convention: ActionConvention,
) -> Confusion:
    """Verdicts on videos of the episodes against what happened there; ``convention`` is that of the actions."""
    verdicts = judge_attempts(judge, logged_attempts(videos, episodes, convention))
    return Confusion.of([verdict.success for verdict in verdicts], [episode.success for episode in episodes])


def _padded(actions_T7: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Followed by holds: no motion, the last opening."""
    hold = np.zeros((length - len(actions_T7), 7), np.float32)
    hold[:, 6] = actions_T7[-1, 6]
    return np.concatenate([np.asarray(actions_T7, np.float32), hold])


def _balanced(successes: list[int], failures: list[int], most: int, seed: int) -> list[int]:
    if not most or len(successes) + len(failures) <= most:
        return successes + failures
    random = np.random.default_rng(seed)
    few, many = sorted((successes, failures), key=len)
    first = min(len(few), most // 2)
    drawn = [*random.permutation(few)[:first], *random.permutation(many)[: most - first]]
    return [int(place) for place in drawn]
