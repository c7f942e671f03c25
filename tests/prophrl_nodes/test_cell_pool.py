"""Jobs in several processes: each keeps its cell, results come in order, what goes wrong is not lost."""

from __future__ import annotations

import os
import time

import pytest
from prophrl_nodes.studies.cell_pool import run_in_cells


class CountingCell:
    """Says how many jobs it has done and which process it lives in; lets the first job take longest."""

    closed = 0

    def __init__(self) -> None:
        self.done = 0

    def run(self, job: int) -> tuple[int, int, int]:
        if job < 0:
            raise ValueError(f"job {job} cannot be done")
        time.sleep(0.2 if job == 0 else 0.0)  # the others overtake it
        self.done += 1
        return job, self.done, os.getpid()

    def close(self) -> None:
        CountingCell.closed += 1


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_cells_are_kept(workers: int) -> None:
    before = CountingCell.closed
    results = list(run_in_cells(CountingCell, list(range(9)), workers))
    assert [job for job, _ in results] == [result[0] for _, result in results] == list(range(9))
    processes = {pid for _, (_, _, pid) in results}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert sum(max(done for _, (_, done, pid) in results if pid == process) for process in processes) == 9
    assert CountingCell.closed == before + (workers == 1), "processes of a pool end with their cells"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_raises_arrives_after_the_results_before_it(workers: int) -> None:
    results = run_in_cells(CountingCell, [1, 2, -3, 4], workers)
    assert [next(results)[0], next(results)[0]] == [1, 2]
    with pytest.raises(ValueError, match="job -3 cannot be done"):
        next(results)


def test_no_job_needs_no_process() -> None:
    assert list(run_in_cells(CountingCell, [], 2)) == []
