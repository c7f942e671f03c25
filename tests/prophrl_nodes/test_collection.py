"""A collection session goes on where an earlier one stopped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.collection import Attempt, CollectionSession, SessionPlan, read_attempts
from prophrl_nodes.scene_host import SceneHost

from prophrl_models.data.lines import LineError, append_line


def plan(output: Path, episodes: int) -> SessionPlan:
    return SessionPlan("place_cube", episodes, 0, output, "somebody", "")


def session_after(output: Path, accepted: list[bool], episodes: int) -> tuple[CollectionSession, CellCalls]:
    """A session in a folder where these attempts were made already, and its cell."""
    for index, kept in enumerate(accepted):
        outcome = "success" if kept else "failure"
        append_line(output / "session.jsonl", asdict(Attempt(index, index, kept, outcome, "", "", 1.0, {})))
    cell = create_autospec(CellCalls, instance=True)
    return CollectionSession(plan(output, episodes), cell, create_autospec(SceneHost), lambda _: None), cell


def test_attempts_of_an_interrupted_session_are_counted(tmp_path: Path) -> None:
    session, _ = session_after(tmp_path, [True, False, True], episodes=5)
    assert (session.attempts, session.kept) == (3, 2)


def test_a_session_that_has_enough_does_not_touch_the_arm(tmp_path: Path) -> None:
    session, cell = session_after(tmp_path, [True, True], episodes=2)
    assert session.run(lambda: False) == 2
    cell.home.assert_not_called()  # type: ignore[attr-defined]
    assert len(read_attempts(tmp_path / "session.jsonl")) == 2


def test_a_damaged_session_log_is_refused_with_the_line(tmp_path: Path) -> None:
    session_after(tmp_path, [True], episodes=1)
    append_line(tmp_path / "session.jsonl", {"index": 1})
    with pytest.raises(LineError, match="line 2"):
        CollectionSession(plan(tmp_path, 1), create_autospec(CellCalls), create_autospec(SceneHost), lambda _: None)
