"""Fixtures shared by all rooms."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

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
