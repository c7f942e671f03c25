"""`make test` runs every test once, and those with real deadlines apart from those that compute."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REAL_TIME

ROOT = Path(__file__).parents[1]
COMPUTING, WITH_DEADLINES = ("tests-learning", "tests-rest", "tests-commands"), ("tests-nodes", "tests-devices")


def files_of(part: str) -> set[Path]:
    """The test files that a target of the Makefile gives to pytest."""
    words = subprocess.run(["make", "-n", part], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ignored = [ROOT / word.removeprefix("--ignore=") for word in words if word.startswith("--ignore=")]
    given = [ROOT / word for word in words if word.startswith("tests")]
    found = {file for place in given for file in ([place] if place.is_file() else place.rglob("test_*.py"))}
    return {file for file in found if not any(place == file or place in file.parents for place in ignored)}


@pytest.fixture(scope="module")
def parts() -> dict[str, set[Path]]:
    return {part: files_of(part) for part in (*COMPUTING, *WITH_DEADLINES)}


def test_every_test_is_in_one_part(parts: dict[str, set[Path]]) -> None:
    everything = set((ROOT / "tests").rglob("test_*.py"))
    times = {file: [name for name, files in parts.items() if file in files] for file in everything}
    assert {file.name: names for file, names in times.items() if len(names) != 1} == {}
    assert all(parts.values())


def test_all_parts_are_run_computing_ones_first() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-j2" in line]
    targets = [set(re.findall(r"tests-\w+|lint", line)) for line in lines]
    assert targets == [{*COMPUTING, "lint"}, set(WITH_DEADLINES)]


def test_parts_with_deadlines_lie_in_the_rooms_that_get_a_second_chance(parts: dict[str, set[Path]]) -> None:
    for part, files in parts.items():
        for file in files:
            room = file.relative_to(ROOT / "tests").as_posix()
            if part in WITH_DEADLINES:
                assert room.startswith(REAL_TIME)
            elif part != "tests-commands":
                assert not room.startswith(REAL_TIME)
