"""Fixtures shared by all rooms."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before numpy and torch are imported, and for every process a test starts: on a busy machine a team of threads waits
# for its slowest member, and a training of seconds takes minutes.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

_next_host = itertools.count(2)


@pytest.fixture
def loopback_host() -> Iterator[str]:
    """A loopback address no other test process uses: UR's ports are fixed, so each robot needs its own address."""
    pid = os.getpid()
    yield f"127.{1 + pid // 250 % 250}.{1 + pid % 250}.{next(_next_host) % 250}"


REAL_TIME = ("prophrl_nodes", "launch", "robot_bridge/camera", "robot_bridge/controller", "robot_bridge/lab",
             "robot_bridge/leader", "prophrl_models/serving")  # fmt: skip
"""Rooms whose tests start real processes with real deadlines."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of real processes get a second chance: a stall of the whole machine breaks deadlines of theirs that hold.

    The summary names every test that took it. One that needs it often is a bug.
    """
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(REAL_TIME):
            item.add_marker(pytest.mark.flaky(reruns=1))
