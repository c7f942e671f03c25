"""The number of training threads follows what is fastest at the moment."""

from __future__ import annotations

import pytest
from prophrl_nodes.studies.threads import TRY_AGAIN_AFTER, ThreadChoice

LAP = 20


class Machine:
    """Steps take as long as the number of threads and what else runs make them."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now_s, self.threads, self.step = seconds, 0.0, 1, 0
        self.used: list[int] = []
        self.choice = ThreadChoice(tuple(seconds), self.use, lambda: self.now_s)

    def use(self, threads: int) -> None:
        self.threads = threads

    def laps(self, count: int) -> list[int]:
        used = []
        for _ in range(count):
            used.append(self.threads)
            self.step += LAP
            self.now_s += LAP * self.seconds[self.threads]
            self.choice.lap(self.step)
        return used


@pytest.mark.parametrize(("alone_s", "faster"), [(0.1, 2), (0.4, 1)])
def test_the_faster_number_of_threads_is_used_most(alone_s: float, faster: int) -> None:
    used = Machine({1: 0.2, 2: alone_s}).laps(60)
    assert used.count(faster) >= 48
    assert set(used) == {1, 2}


def test_another_program_that_starts_or_ends_changes_the_choice() -> None:
    machine = Machine({1: 0.2, 2: 0.1})
    machine.laps(3 * TRY_AGAIN_AFTER)
    machine.seconds[2] = 0.4
    assert machine.laps(40).count(1) >= 26
    machine.seconds[2] = 0.1
    assert machine.laps(40).count(2) >= 26


def test_one_core_has_nothing_to_choose() -> None:
    machine = Machine({1: 0.2})
    assert machine.laps(30) == [1] * 30


def test_a_resumed_training_starts_counting_where_it_goes_on() -> None:
    machine = Machine({1: 0.2, 2: 0.1})
    machine.step = 600
    assert machine.laps(30).count(2) >= 20
