"""The evaluation protocol: world models and baselines play the logged actions of held-out episodes.

single chunk    windows spread over the held-out episodes; the world starts at a real frame and predicts one chunk
closed loop     each held-out episode from its first frame; every chunk starts from what the world itself has imagined

A row of the table is one kind of model. It may have several members, networks trained with different seeds, and each
may be sampled with several seeds of noise; the spread over all of these says which differences between rows count.
Metrics: design specification 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.split import Split, held_out
from prophrl_models.prophet.eval_data import Clip, ClipReader, EvaluationError, episode_starts, spread_windows
from prophrl_models.prophet.eval_video import FrameStore, pick_shown
from prophrl_models.prophet.metrics import Array, Lpips
from prophrl_models.prophet.playback import StillWorld, check_world, play
from prophrl_models.prophet.rollout import ImaginedWorld
from prophrl_models.prophet.scores import Distance, Scores, Spread, score_frames
from prophrl_models.prophet.sensitivity import Sensitivity, measure_sensitivity
from prophrl_models.prophet.trained_on import TrainedOn

BASELINE = "copy last frame"
CHUNK, LOOP = "single chunk", "closed loop"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated.

    Attributes:
        held_out, split_seed: the split that training left out, see ``data.split``.
        windows: single chunks.
        chunks: length of the closed loop.
        episodes: closed loops, at most.
        batch: clips imagined together.
        noise_seeds: how often each world is sampled.
        seed: of windows and noise.
        videos: closed loops shown in the report.
        passes: of each network for a chunk; None: as its checkpoint says.
        sensitivity: whether to play other actions, too.
        lpips: whether to compute LPIPS.
    """

    held_out: float = 0.1
    split_seed: int = 0
    windows: int = 64
    chunks: int = 6
    episodes: int = 32
    batch: int = 8
    noise_seeds: int = 1
    seed: int = 0
    videos: int = 4
    passes: int | None = None
    sensitivity: bool = True
    lpips: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.held_out < 1.0:
            raise EvaluationError(f"the held-out fraction must lie inside 0..1, got {self.held_out}; 0.1 is usual")
        for name in ("windows", "chunks", "episodes", "batch", "noise_seeds"):
            if getattr(self, name) < 1:
                raise EvaluationError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.passes is not None and self.passes < 1:
            raise EvaluationError(
                f"a chunk takes at least one pass, got {self.passes}; leave it out to use the model's"
            )
        if self.videos < 0:
            raise EvaluationError(f"videos cannot be negative, got {self.videos}")


@dataclass(frozen=True)
class Subject:
    """A world to evaluate.

    Attributes:
        row: the row it belongs to; subjects of one row are the same model trained with different seeds.
        source: where it comes from, in words.
        load: opens it; called once, and only one world is open at a time.
        provenance: of its checkpoint; says which episodes it was trained on.
    """

    row: str
    source: str
    load: Callable[[], ImaginedWorld]
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """One world, sampled with one seed of noise.

    Attributes:
        scores: by protocol (``CHUNK``, ``LOOP``).
        batch_s: median time for one chunk of one batch of ``batch`` clips, by the wall clock.
        sensitivity: None where it was not measured.
    """

    source: str
    noise_seed: int
    scores: Mapping[str, Scores]
    batch_s: float
    batch: int
    sensitivity: Sensitivity | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    members: tuple[Member, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that were measured."""
        return self.members[0].scores[CHUNK].names

    def spread(self, protocol: str, metric: str, *, median: bool = False) -> Spread:
        """A metric's mean (or median) over all frames: its mean and deviation over the members."""
        summaries = [member.scores[protocol].summary(metric) for member in self.members]
        return Spread.of([summary.median if median else summary.mean for summary in summaries])

    def curves(self, metric: str, protocol: str = LOOP) -> Array:
        """Mean over clips at each frame, one row per member [M, T]."""
        return np.stack([member.scores[protocol].curve(metric) for member in self.members])

    @property
    def sensitivity(self) -> Sensitivity | None:
        """The first member's."""
        return next((member.sensitivity for member in self.members if member.sensitivity is not None), None)


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        rows: the baseline, then the subjects' rows in their order.
        windows, loops: what single chunks and closed loops started from.
        shown: numbers of the closed loops whose frames were kept.
        actions: actions (and frames) of a chunk.
        image: (height, width) in pixels.
        notes: what a reader must know about the split.
    """

    settings: EvaluationSettings
    rows: tuple[Row, ...]
    windows: tuple[Clip, ...]
    loops: tuple[Clip, ...]
    shown: tuple[int, ...]
    split: Split
    actions: int
    image: tuple[int, int]
    rate_hz: float
    notes: tuple[str, ...]


def evaluate(
    subjects: Sequence[Subject],
    dataset: Dataset,
    settings: EvaluationSettings,
    frames_folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Evaluate worlds, one after the other, next to copying the last frame.

    Args:
        subjects: at least one; all of one picture size.
        dataset: where the held-out episodes are.
        frames_folder: where the frames of the closed loops to be shown are kept for ``eval_video``; none are without.
        say: told what is being done.

    Raises:
        EvaluationError: nothing to evaluate, or worlds that cannot be compared with the dataset or each other, or that
            were trained on what is held out here.
        SplitError: nothing is held out.
        CheckpointError: a checkpoint's record of its episodes is damaged.
        MetricError: LPIPS is asked for and cannot be computed.
    """
    if not subjects:
        raise EvaluationError("no world model to evaluate; name at least one checkpoint")
    if any(subject.row == BASELINE for subject in subjects):
        raise EvaluationError(f"{BASELINE!r} is the name of the baseline; call the row of your model something else")
    lpips = Lpips() if settings.lpips else None
    split = held_out(dataset, settings.held_out, settings.split_seed)
    notes = [note for subject in subjects if (note := _leak(subject, dataset, split))]
    rows: dict[str, list[Member]] = {}
    first: StillWorld | None = None
    windows: tuple[Clip, ...] = ()
    loops: tuple[Clip, ...] = ()
    shown: tuple[int, ...] = ()
    for subject in subjects:
        say(f"{subject.row}: {subject.source}")
        world = subject.load()
        check_world(world, dataset.convention, dataset.control_rate_hz)
        if first is None:
            first = StillWorld.like(world)
            windows = spread_windows(dataset, split.held_out, world.actions, settings.windows, settings.seed)
            loops = episode_starts(dataset, split.held_out, settings.chunks * world.actions, settings.episodes)
            shown = pick_shown(dataset, loops, settings.videos if frames_folder else 0)
        if StillWorld.like(world) != first:
            raise EvaluationError(
                f"{subject.source} imagines {world.actions} frames of {world.image_width}x{world.image_height} px, the "
                f"first model {first.actions} of {first.image_width}x{first.image_height}; their scores cannot be "
                "compared, evaluate them separately"
            )
        members = rows.setdefault(subject.row, [])
        for noise in range(settings.noise_seeds):
            with FrameStore(frames_folder, subject.row, shown if not members else ()) as store:
                members.append(
                    _measure(world, subject.source, noise, dataset, (windows, loops), settings, store, lpips)
                )
    assert first is not None
    say(BASELINE)
    alone = _measure(first, BASELINE, 0, dataset, (windows, loops), settings, FrameStore(None, BASELINE, ()), lpips)
    return Evaluation(
        settings=settings,
        rows=(Row(BASELINE, (alone,)), *(Row(name, tuple(members)) for name, members in rows.items())),
        windows=windows,
        loops=loops,
        shown=shown,
        split=split,
        actions=first.actions,
        image=(first.image_height, first.image_width),
        rate_hz=first.control_rate_hz,
        notes=tuple(notes),
    )


def _measure(
    world: ImaginedWorld,
    source: str,
    noise: int,
    dataset: Dataset,
    clips: tuple[tuple[Clip, ...], tuple[Clip, ...]],
    settings: EvaluationSettings,
    store: FrameStore,
    lpips: Distance | None,
) -> Member:
    reader = ClipReader(dataset, world.image_height, world.image_width)
    scores, seconds = {}, []
    for protocol, starts, chunks in ((CHUNK, clips[0], 1), (LOOP, clips[1], settings.chunks)):
        scores[protocol] = Scores(len(starts), chunks * world.actions)
        seed = settings.seed + noise
        for played in play(world, reader, starts, chunks=chunks, batch=settings.batch, seed=seed):
            if protocol == CHUNK and len(played.rows) == min(settings.batch, len(starts)):
                seconds.append(played.seconds)
            for row, clip in enumerate(played.rows):
                generated = played.generated(row)
                real = reader.frames(starts[clip], played.first - 1, world.actions + 1)
                valid = max(0, min(world.actions, starts[clip].frames - played.first + 1))
                found = score_frames(real, generated, lpips)
                scores[protocol].put(clip, played.first - 1, found, valid)
                if protocol == LOOP:
                    store.add(clip, generated[1 : valid + 1])
    sensitivity = None
    if settings.sensitivity and noise == 0 and not isinstance(world, StillWorld):
        sensitivity = measure_sensitivity(world, reader, clips[0], batch=settings.batch, seed=settings.seed)
    batch = min(settings.batch, len(clips[0]))
    return Member(source, noise, scores, float(np.median(seconds)), batch, sensitivity)


def _leak(subject: Subject, dataset: Dataset, split: Split) -> str:
    """What is to be said about a checkpoint that may have seen the held-out episodes; empty when it has not.

    Raises:
        EvaluationError: the network or the codec was certainly trained on some of them.
        CheckpointError: the record of their episodes is damaged.
    """
    network = TrainedOn.of_provenance(subject.provenance, subject.source)
    codec = TrainedOn.of_codec(subject.provenance, subject.source)
    notes = []
    for name, trained_on in ((subject.source, network), (f"the codec of {subject.source}", codec)):
        answers: dict[str, list[str]] = {"yes": [], "no": [], "unknown": []}
        for position in split.held_out:
            episode_id = dataset.table[position].episode_id
            answers[trained_on.used(episode_id, dataset.content_hash)].append(episode_id)
        seen, unknown, count = answers["yes"], answers["unknown"], len(split.held_out)
        if seen:
            left_out = subject.provenance.get("held_out") or {}
            fraction = float(left_out.get("fraction", 0.0))
            advice = "evaluate on episodes that it has not seen, or train with the same held_out and split_seed"
            if fraction > 0.0:
                own = f"--held-out {fraction:g} --split-seed {int(left_out.get('seed', 0))}"
                advice = f"use {own}, as in its training; or {advice}"
            raise EvaluationError(
                f"{name} was trained on {len(seen)} of the {count} held-out episodes, such as {seen[0]!r}; {advice}"
            )
        if unknown:
            notes.append(
                f"{name} does not say which episodes it was trained on "
                f"({', '.join(old.checkpoint for old in trained_on.old)}); {len(unknown)} of the {count} held-out ones "
                "may be among them, so its figures may be too good."
            )
    return " ".join(notes)
