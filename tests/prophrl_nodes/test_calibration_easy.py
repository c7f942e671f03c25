"""Our calibrator behind easy_handeye2's words: what its clients get is what we sampled and solved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.calibrating.easy import ALGORITHMS, EasySession
from prophrl_nodes.calibrating.look import look
from prophrl_nodes.calibrating.manual import ManualSession
from prophrl_nodes.calibrating.samples import SampleError, SampleFolder
from prophrl_nodes.node_base import Refused

from calibration.board import DEFAULT_BOARD
from calibration.easy_handeye import HandeyeParameters, poses
from robot_bridge.cell import SafetyConfig
from robot_bridge.view_poses import candidates
from tests.helpers.drawn_cell import GUESSES, HOME, KINEMATICS, DrawnCell, errors, session_of


@pytest.mark.parametrize(("mode", "kind"), [("eye_to_hand", "eye_on_base"), ("eye_in_hand", "eye_in_hand")])
def test_samples_taken_through_it_give_the_camera_by_every_algorithm(
    mode: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = GUESSES[mode]
    cell = DrawnCell(guess, 1, monkeypatch)
    manual = ManualSession(session_of(guess), SampleFolder(tmp_path, session_of(guess)), 15)

    async def work(blocking: Callable[[], object]) -> object:
        try:
            return blocking()
        except SampleError as error:
            raise Refused(str(error)) from error

    session = EasySession(
        work, lambda: manual, lambda: look(cell, DEFAULT_BOARD), "", HandeyeParameters(calibration_type=kind)
    )
    with pytest.raises(Refused, match="not solvable"):
        asyncio.run(session.compute())
    views = candidates(cell.true, HOME, HOME, KINEMATICS, SafetyConfig(), np.random.default_rng(3), count=14)
    for view in views:
        cell.move(view.q)
        asyncio.run(session.take_sample())
    samples = session.samples()
    assert len(samples) == 14
    T_base_tool, T_camera_board = poses(samples, mode)  # type: ignore[arg-type]
    np.testing.assert_allclose(T_base_tool[0], views[0].T_base_tool, atol=3e-3)
    np.testing.assert_allclose(T_camera_board[0], cell.true.T_camera_board(views[0].T_base_tool), atol=2e-2)

    found = {}
    for algorithm in ALGORITHMS:
        session.algorithm = algorithm
        found[algorithm] = errors(asyncio.run(session.compute()), cell.true.X)[0]
    assert found["prophrl/joint"] < 2.0
    assert found["prophrl/joint"] < np.median([found[name] for name in ALGORITHMS[1:]])

    session.algorithm = "prophrl/joint"
    assert "calibration.yaml" in asyncio.run(session.save())
    asyncio.run(session.remove_sample(0))
    assert len(session.samples()) == 13
    with pytest.raises(Refused, match="no sample 13"):
        asyncio.run(session.remove_sample(13))

    asyncio.run(session.load_samples(samples))
    assert len(session.samples()) == 14
    assert errors(asyncio.run(session.compute()), cell.true.X)[0] < 4.0
    with pytest.raises(Refused, match="loaded"):
        asyncio.run(session.take_sample())
    cell.hidden = True
    with pytest.raises(Refused, match="no marker in view"):
        asyncio.run(session.current_sample())
