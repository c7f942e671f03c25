"""Jobs in one process or several, each of which keeps a cell (a policy, a lane) from job to job."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from typing import Any, Protocol, TypeVar

MAX_WORKERS = 2

Job_contra = TypeVar("Job_contra", contravariant=True)
Job = TypeVar("Job")
Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class Cell(Protocol[Job_contra, Result_co]):
    """What a process keeps."""

    def run(self, job: Job_contra) -> Result_co:
        """Do one job."""

    def close(self) -> None:
        """Let go of it all."""


def run_in_cells(
    make_cell: Callable[[], Cell[Job, Result]], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Jobs and their results, in order.

    Few are finished ahead of the one that is asked for, so that large results do not pile up.

    Args:
        make_cell: a class or function of a module, for processes are told its name.
        workers: processes; with one, or one job, it is this one.
    """
    if workers == 1 or len(jobs) < 2:
        with closing(make_cell()) as cell:
            for job in jobs:
                yield job, cell.run(job)
        return
    # Processes of their own from the start: an OpenGL context and torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_open, initargs=(make_cell,))
    try:
        waiting = [(job, pool.submit(_in_a_worker, job)) for job in jobs[: 2 * workers]]
        for following in [*jobs[2 * workers :], *[None] * len(waiting)]:
            job, future = waiting.pop(0)
            result = future.result()
            if following is not None:
                waiting.append((following, pool.submit(_in_a_worker, following)))
            yield job, result
    finally:
        pool.shutdown(cancel_futures=True)


_cell_of_process: Cell[Any, Any] | None = None


def _open(make_cell: Callable[[], Cell[Any, Any]]) -> None:
    global _cell_of_process
    _cell_of_process = make_cell()


def _in_a_worker(job: Any) -> Any:
    assert _cell_of_process is not None, "the pool opens a cell in each of its processes"
    return _cell_of_process.run(job)
