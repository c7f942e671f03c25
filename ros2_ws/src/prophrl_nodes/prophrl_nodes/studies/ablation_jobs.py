"""Many commands, one after the other: each in a process of its own, finished ones skipped, interrupted ones continued.

A job is what a user would type, and says by files whether it is done. So a study can be killed at any moment, and the
same command goes on. A job that fails does not stop the study: what does not depend on it is still done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophrl_models.data.files import write_json
from prophrl_nodes.offline.child import POLL_S, ChildFailed, run_child
from prophrl_nodes.studies.progress import progress_bar

STUDY_FILE = "study.json"


class StudyChanged(ValueError):
    """The folder holds a study of something else; the message says what differs."""


@dataclass(frozen=True)
class Job:
    """One command of a study.

    Attributes:
        name: in words, unique in the study.
        command: the process.
        log: its output goes there.
        is_done: whether its result is there.
        is_ready: whether what it needs is there.
        step: how far it is, counted in ``unit``; ``steps`` is its end, 0 where nothing can be counted.
    """

    name: str
    command: Sequence[str]
    log: Path
    is_done: Callable[[], bool]
    is_ready: Callable[[], bool] = lambda: True
    step: Callable[[], int] = lambda: 0
    steps: int = 0
    unit: str = "step"


def prophrl(*words: object) -> list[str]:
    """A ``prophrl`` command line."""
    return [sys.executable, "-m", "prophrl_nodes.cli.main", *map(str, words)]


def run_jobs(
    jobs: Sequence[Job],
    *,
    after: Callable[[Job, Mapping[str, str]], None] = lambda job, failed: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Do what is left of the jobs, in order.

    Args:
        after: told about each job that was done now, and the failures so far.
        say: told in words what is being done.

    Returns:
        Failed jobs by name, with the reason.
    """
    failed: dict[str, str] = {}
    left = [job for job in jobs if not job.is_done()]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} parts are done already")
    for number, job in enumerate(left, len(jobs) - len(left) + 1):
        if not job.is_ready():
            say(f"[{number}/{len(jobs)}] {job.name}: left out, what it needs has failed")
            continue
        say(f"[{number}/{len(jobs)}] {job.name}")
        try:
            _run(job, say)
        except ChildFailed as failure:
            failed[job.name] = str(failure)
            say(f"failed: {failure}")
            continue
        after(job, failed)
    return failed


def run_study(
    jobs: Sequence[Job],
    *,
    write: Callable[[Mapping[str, str]], Path],
    text: Callable[[Mapping[str, str]], str],
    measures: Callable[[Job], bool],
    measured: Callable[[], bool] = lambda: True,
) -> int:
    """Do a study's jobs and print what comes of them; the exit code: 1 where a part failed.

    Args:
        write: writes the page of what is measured so far and returns it; told the failures.
        text: the same for a terminal.
        measures: whether a job's end changes the page.
        measured: whether there is anything to write.
    """

    def say(line: str) -> None:
        print(line, flush=True)

    def after(job: Job, failed: Mapping[str, str]) -> None:
        if measures(job) and measured():
            say(f"  so far: {write(failed)}")

    failed = run_jobs(jobs, after=after, say=say)
    page = write(failed) if measured() else None
    if page:
        say(text(failed))
    for name, why in failed.items():
        say(f"failed: {name}: {why}")
    say(str(page or "nothing is measured yet"))
    return 1 if failed or not page else 0


def _run(job: Job, say: Callable[[str], None]) -> None:
    with _Bar(job) as bar:
        pid = running(job.command)
        if pid is not None:  # a killed study leaves its child behind; two of it in one folder would spoil the run
            say(f"process {pid} of an earlier call is still at it; waiting for its end")
            while running(job.command) is not None:
                time.sleep(POLL_S)
                bar.show()
        if not job.is_done():
            job.log.unlink(missing_ok=True)  # of an earlier try; what the command itself keeps goes on
            run_child(list(job.command), job.log, bar.show)
    if not job.is_done():
        raise ChildFailed(f"{job.name} ended without its result (log: {job.log})", 0)


def running(command: Sequence[str]) -> int | None:
    """The process that runs exactly this command, if the system tells (Linux does)."""
    wanted = list(command)[1:]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:
            continue  # it ended, or belongs to somebody else
        if words[1:] == wanted and int(entry.name) != os.getpid():
            return int(entry.name)
    return None


class _Bar:
    """A bar for jobs that can count, nothing for others."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        if self._job.steps:
            initial = min(self._job.step(), self._job.steps)
            self._bar = progress_bar(self._job.steps, self._job.unit, initial=initial)
        return self

    def show(self) -> None:
        if self._bar is not None:
            self._bar.update(min(self._job.step(), self._job.steps) - self._bar.n)

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.close()


def claim_study(folder: Path, facts: Mapping[str, Any], *, may_grow: Iterable[str] = (), arms: str = "") -> None:
    """Write what a study is about into its folder, or check that the folder is of the same one.

    Args:
        facts: plain values.
        may_grow: names whose values may differ from call to call.
        arms: name of a mapping to which later calls may add entries, and from which they may leave some out; what an
            entry holds stays.

    Raises:
        StudyChanged: the folder holds another study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / STUDY_FILE
    now = json.loads(json.dumps(dict(facts)))
    if file.is_file():
        then = json.loads(file.read_text(encoding="utf-8"))
        if arms:
            now[arms] = {**then.get(arms, {}), **now[arms]}
            then[arms] = {**now[arms], **then.get(arms, {})}
        changed = _differences(then, now, set(may_grow))
        if changed:
            raise StudyChanged(
                f"{folder} holds a study with other settings ({'; '.join(changed)}); give the old ones to go on, or "
                "take another output folder"
            )
    write_json(file, now)


def _differences(then: Any, now: Any, ignored: set[str], prefix: str = "") -> list[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        found = []
        for name in sorted({*then, *now}):
            if prefix or name not in ignored:
                found += _differences(then.get(name), now.get(name), ignored, f"{prefix}{name}.")
        return found
    return [] if then == now else [f"{prefix.rstrip('.')} was {then!r}, is {now!r}"]
