"""Fixtures shared by all rooms."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

_next_host = itertools.count(2)


@pytest.fixture
def loopback_host() -> Iterator[str]:
    """A loopback address no other test process uses: UR's ports are fixed, so each robot needs its own address."""
    pid = os.getpid()
    yield f"127.{1 + pid // 250 % 250}.{1 + pid % 250}.{next(_next_host) % 250}"
