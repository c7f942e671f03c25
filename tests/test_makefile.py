"""`make test` runs every test once, and those with real deadlines alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REAL_TIME

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def makefile() -> str:
    return (ROOT / "Makefile").read_text().replace("\\\n", " ")


def listed(makefile: str, name: str) -> list[str]:
    found = re.search(rf"^{name} := (.*)$", makefile, re.MULTILINE)
    assert found is not None, name
    return found.group(1).split()


def test_rooms_with_real_deadlines_are_those_that_get_a_second_chance(makefile: str) -> None:
    assert listed(makefile, "REAL_TIME") == [f"tests/{room}" for room in REAL_TIME]


def test_the_parts_share_nothing_and_leave_nothing_out(makefile: str) -> None:
    rooms = [ROOT / room for name in ("REAL_TIME", "LEARNING") for room in listed(makefile, name)]
    assert all(room.is_dir() for room in rooms)
    assert not any(a in b.parents or a == b for i, a in enumerate(rooms) for j, b in enumerate(rooms) if i != j)
    rest = re.search(r"^tests-rest:\n\t(.*)$", makefile, re.MULTILINE)
    assert rest is not None and rest.group(1).endswith("$(addprefix --ignore=,$(REAL_TIME) $(LEARNING)) tests")
    for name in ("LEARNING", "REAL_TIME"):
        assert re.search(rf"^\t\$\(PYTEST\).* \$\({name}\)$", makefile, re.MULTILINE), name
