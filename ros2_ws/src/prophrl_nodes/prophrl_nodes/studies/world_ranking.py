"""Success of policies inside a world model: rollouts as deployed (ODE), from starts the world has not seen, judged."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.files import write_json
from prophrl_models.policies.load import load_policy
from prophrl_models.prophet.checkpoint import PROVENANCE
from prophrl_models.prophet.imagined import Prompt
from prophrl_models.prophet.rank_report import VIDEOS, ImaginedVideo
from prophrl_models.prophet.rollout import ImaginedWorld
from prophrl_models.prophet.trained_on import TrainedOn
from prophrl_models.reward.judge import Judge
from prophrl_models.rl.rollouts import RolloutWorker, Unit, derived_seed
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.rl.starts import dataset_starts, draw_starts, starts_hash
from prophrl_models.training.checkpoint import read_checkpoint
from prophrl_nodes.studies.fast_trials import Contender, StudyError


@dataclass(frozen=True)
class ImaginationSettings:
    """How policies are rolled out.

    Attributes:
        execute_length: actions of each chunk that are executed.
        seconds: length of a rollout.
        repeats: rollouts of each start, with other noise.
        batch: rollouts at a time.
        videos: so many rollouts of each policy are kept.
        seed: of all noise.
    """

    execute_length: int = 8
    seconds: float = 12.0
    repeats: int = 1
    batch: int = 16
    videos: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.execute_length < 1 or self.repeats < 1 or self.batch < 1 or not 0.0 < self.seconds <= 300.0:
            raise StudyError(
                f"rollouts need at least one action, repeat and row, and 0..300 s, got {self.execute_length}, "
                f"{self.repeats}, {self.batch} and {self.seconds}"
            )

    def calls(self, rate_hz: float) -> int:
        """Policy calls of a rollout."""
        return max(1, math.ceil(self.seconds * rate_hz / self.execute_length - 1e-9))


@dataclass(frozen=True)
class ImaginedOutcomes:
    """Verdicts on a policy's rollouts; None where the judge gave none."""

    success: tuple[bool | None, ...]
    videos: tuple[ImaginedVideo, ...]


def unseen_starts(
    dataset: Dataset, world: Path, instruction: str, *, most: int = 0, seed: int = 0
) -> tuple[list[Prompt], str]:
    """Starts of episodes with this instruction that the world was not trained on, and a note on how they were chosen.

    Network and codec both count. Where no episode is certainly new to them, those are used of which the checkpoint does
    not say whether they are, and the note says so.

    Args:
        most: so many of them, drawn with ``seed``; 0: all.

    Raises:
        StudyError: the world was trained on all of them.
        TrainingError: no episode has that instruction.
        CheckpointError: the world's record of its episodes is damaged.
    """
    starts = dataset_starts(dataset, instructions=[instruction])
    made_of = json.loads((world / PROVENANCE).read_text())
    trained_on = TrainedOn.of_provenance(made_of, world.name).joined(TrainedOn.of_codec(made_of, world.name))
    answers = [trained_on.used(start.source, dataset.content_hash) for start in starts]
    kept = [start for start, used in zip(starts, answers, strict=True) if used == "no"]
    which = "in episodes that the world was not trained on"
    if not kept:
        kept = [start for start, used in zip(starts, answers, strict=True) if used == "unknown"]
        old = ", ".join(dict.fromkeys(training.checkpoint for training in trained_on.old))
        which = f"in episodes of which the world does not say whether it was trained on them ({old})"
    if not kept:
        raise StudyError(
            f"{world} was trained on all {len(starts)} episodes of {instruction!r} in {dataset.folder}; give another "
            "dataset, or train with held_out"
        )
    used = _some(kept, most, seed)
    return used, f"{len(used)} starts, of {len(kept)} {which} ({len(starts)} in all)."


def _some(starts: list[Prompt], most: int, seed: int) -> list[Prompt]:
    if not 0 < most < len(starts):
        return starts
    return [starts[i] for i in sorted(draw_starts(len(starts), most, derived_seed(seed, "starts")))]


def imagine_policy(
    contender: Contender,
    world: ImaginedWorld,
    judge: Judge,
    starts: Sequence[Prompt],
    settings: ImaginationSettings,
    folder: Path,
    *,
    device: str = "cpu",
    identity: str = "",
    on_rollouts: Callable[[int], None] = lambda count: None,
) -> ImaginedOutcomes:
    """Roll a policy out and judge it; the result is kept in ``folder`` and taken from there the next time.

    All policies meet the same starts with the same noise.

    Args:
        folder: of the report; verdicts go into ``imagined/``, videos into ``videos/``.
        identity: of world and judge; a result of others is not used.
        on_rollouts: told how many more rollouts are done.

    Raises:
        CheckpointError, TrainingError: the policy cannot be used, or does not fit the world.
        JudgeError: the judge cannot work.
    """
    pairs = [(start, repeat) for repeat in range(settings.repeats) for start in range(len(starts))]
    said = json.dumps([contender.checkpoint_id, identity, asdict(settings), starts_hash(starts)])
    key = hashlib.sha256(said.encode()).hexdigest()
    file = folder / "imagined" / f"{contender.checkpoint_id[:16]}.json"
    known = _kept(file, key, folder)
    if known is not None:
        on_rollouts(len(pairs))
        return known
    policy = load_policy(contender.folder, device)
    options = RolloutOptions(calls=settings.calls(policy.spec.control_rate_hz), keep=settings.execute_length)
    worker = RolloutWorker(policy, world, judge, starts, options)
    success: list[bool | None] = []
    videos: list[ImaginedVideo] = []
    for first in range(0, len(pairs), settings.batch):
        part = pairs[first : first + settings.batch]
        seeds = tuple(derived_seed(settings.seed, "ranking", start, repeat) for start, repeat in part)
        filmed = max(0, min(settings.videos - first, len(part)))
        found = worker.run(Unit(tuple(start for start, _ in part), seeds, mode="ode", video=filmed > 0))
        verdicts = [None if math.isnan(value) else bool(value) for value in found.success_B.tolist()]
        for row in range(filmed):
            video = ImaginedVideo(
                f"{contender.checkpoint_id[:16]}_{first + row + 1:03d}.mp4", verdicts[row], found.reasons[row]
            )
            (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
            (folder / VIDEOS / video.file).write_bytes(found.videos[row])
            videos.append(video)
        success += verdicts
        on_rollouts(len(part))
    outcomes = ImaginedOutcomes(tuple(success), tuple(videos))
    if any(verdict is not None for verdict in success):  # an outage of the judge is not worth keeping
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"key": key, **asdict(outcomes)})
    return outcomes


def training_notes(contenders: Sequence[Contender], dataset: Dataset) -> list[str]:
    """What to know about policies that were trained on the episodes whose starts are used."""
    seen = [
        contender.name
        for contender in contenders
        if read_checkpoint(contender.folder).provenance.get("dataset_hash") == dataset.content_hash
    ]
    if not seen:
        return []
    return [
        f"{', '.join(seen)}: trained on demonstrations of this dataset, so their imagined starts may be familiar to "
        "them while the placements on the twin are not."
    ]


def _kept(file: Path, key: str, folder: Path) -> ImaginedOutcomes | None:
    """A result of an earlier call, if it is of the same things and its videos are there."""
    if not file.is_file():
        return None
    raw: dict[str, Any] = json.loads(file.read_text())
    if raw.get("key") != key:
        return None
    videos = tuple(ImaginedVideo(**video) for video in raw["videos"])
    if not all((folder / VIDEOS / video.file).is_file() for video in videos):
        return None
    return ImaginedOutcomes(tuple(raw["success"]), videos)
