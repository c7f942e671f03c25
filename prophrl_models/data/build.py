"""Bags to dataset: which bags belong in, conversion in one or several processes, progress, resumption."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prophrl_models.data.bag import Bag, BagError, find_bags
from prophrl_models.data.dataset_format import DatasetError, DatasetHeader
from prophrl_models.data.dataset_writer import DatasetWriter, convert_into
from prophrl_models.data.streams import Topics

OUTCOMES = ("success", "failure", "unknown")


@dataclass(frozen=True)
class LeftOut:
    """A bag that is not in the dataset, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """What ``build_dataset`` did.

    Attributes:
        folder, content_hash: the dataset.
        converted, resumed: episodes made now, and those found from an earlier run.
        steps: steps of all episodes.
        left_out: bags that are not in it.
        bag_bytes, seconds: size of the bags converted now, and how long it took.
    """

    folder: Path
    content_hash: str
    converted: int
    resumed: int
    steps: int
    left_out: tuple[LeftOut, ...]
    bag_bytes: int
    seconds: float

    @property
    def megabytes_per_s(self) -> float:
        return self.bag_bytes / 1e6 / self.seconds if self.seconds > 0 else 0.0


def build_dataset(
    bag_dirs: Collection[str | Path],
    out_dir: str | Path,
    *,
    header: DatasetHeader | None = None,
    outcomes: Collection[str] = ("success",),
    tasks: Collection[str] = (),
    discarded: bool = False,
    topics: Topics | None = None,
    workers: int = 0,
    progress: bool = True,
) -> BuildReport:
    """Convert bags into a dataset folder; bags that are already in it are skipped, so a stopped build can be repeated.

    Args:
        bag_dirs: bag folders, folders of bag folders, or .mcap files.
        out_dir: new folder, or the one of an interrupted or earlier build.
        header: action convention and how policy inputs are formed; defaults when None.
        outcomes: which outcomes to take; by default only successes.
        tasks: which tasks to take; all when empty.
        discarded: take bags that the operator did not accept, too. No demonstrations, but what happens in them is real:
            a world model learns from them how attempts fail.
        topics: topic names when they differ from the defaults.
        workers: processes that convert in parallel; 0 converts in this one.
        progress: show a progress bar on standard error.

    Raises:
        BagError: a path does not exist.
        DatasetError: ``out_dir`` holds something else, no bag qualifies, or a worker process died.
        ValueError: unknown outcome.
    """
    for outcome in outcomes:
        if outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {outcome!r}, choose among {', '.join(OUTCOMES)}")
    started_s = time.perf_counter()
    paths = find_bags(bag_dirs, discarded=discarded)
    with closing(DatasetWriter(out_dir, header)) as writer:
        resumed = len(writer.rows)
        left_out: list[LeftOut] = []
        todo = _select(paths, writer, outcomes, tasks, discarded, left_out)
        done_bytes = 0
        with tqdm(
            total=sum(bag.bytes for bag in todo), unit="B", unit_scale=True, disable=not progress, desc="bags"
        ) as bar:
            for bag, record in _convert(todo, writer, topics, workers):
                bar.update(bag.bytes)
                if isinstance(record, LeftOut):
                    left_out.append(record)
                    shutil.rmtree(writer.partial_folder(bag.content_id), ignore_errors=True)
                    continue
                writer.publish(writer.partial_folder(bag.content_id), record)
                done_bytes += bag.bytes
                bar.set_postfix_str(f"{len(writer.rows)} episodes", refresh=False)
        digest = writer.finish({"source": entry.source, "reason": entry.reason} for entry in left_out)
    return BuildReport(
        folder=writer.folder,
        content_hash=digest,
        converted=len(writer.rows) - resumed,
        resumed=resumed,
        steps=sum(row.steps for row in writer.rows),
        left_out=tuple(left_out),
        bag_bytes=done_bytes,
        seconds=time.perf_counter() - started_s,
    )


def _select(
    paths: Sequence[Path],
    writer: DatasetWriter,
    outcomes: Collection[str],
    tasks: Collection[str],
    discarded: bool,
    left_out: list[LeftOut],
) -> list[Bag]:
    """Bags to convert; the others go to ``left_out`` with the reason, except those already converted."""
    chosen: list[Bag] = []
    source_ids = set(writer.source_ids)
    names = {row.episode_id for row in writer.rows}
    for path in paths:
        try:
            bag = Bag(path)
        except BagError as error:
            left_out.append(LeftOut(path.name, str(error)))
            continue
        said = bag.metadata
        if bag.content_id in source_ids:
            continue
        reason = ""
        if not (said.accepted or discarded):
            reason = "not accepted by the operator"
        elif said.outcome not in outcomes:
            reason = f"outcome is {said.outcome!r}, wanted {', '.join(sorted(outcomes))}"
        elif tasks and said.task not in tasks:
            reason = f"task is {said.task!r}, wanted {', '.join(sorted(tasks))}"
        elif said.episode_id in names:
            reason = "another version of it is in the dataset already; build into a fresh folder to replace it"
        if reason:
            left_out.append(LeftOut(path.name, reason))
            continue
        source_ids.add(bag.content_id)
        names.add(said.episode_id)
        chosen.append(bag)
    return chosen


def _convert(
    bags: Sequence[Bag], writer: DatasetWriter, topics: Topics | None, workers: int
) -> Iterator[tuple[Bag, dict[str, Any] | LeftOut]]:
    """Each bag with its episode record, in order, or with why it could not be converted."""
    jobs = [(writer.partial_folder(bag.content_id), bag.path, writer.header, topics) for bag in bags]
    pool: AbstractContextManager[Any] = nullcontext()
    if workers > 0:
        # spawn: a fork would copy the threads' locks of whatever the caller runs (ROS, torch)
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    with pool as executor:
        results: Iterable[Callable[[], dict[str, Any]]]
        if executor is None:
            results = (lambda job=job: convert_into(*job) for job in jobs)  # type: ignore[misc]
        else:
            futures: list[Future[dict[str, Any]]] = [executor.submit(convert_into, *job) for job in jobs]
            results = [future.result for future in futures]
        for bag, result in zip(bags, results, strict=True):
            try:
                yield bag, result()
            except BagError as error:
                yield bag, LeftOut(bag.name, str(error))
            except BrokenProcessPool as error:
                raise DatasetError(
                    f"a conversion process died at {bag.name} (out of memory?); run again with fewer workers, "
                    "finished episodes are kept"
                ) from error
