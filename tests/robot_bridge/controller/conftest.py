"""A running twin controller, one per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.twin_controller import RunningController, new_host


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    running = RunningController(tmp_path_factory.mktemp("controller"), new_host())
    yield running
    running.stop()


@pytest.fixture
def robot(controller: RunningController) -> Iterator[RunningController]:
    """The module's controller, powered on and without faults."""
    if controller.process.poll() is not None:
        controller.start()
    controller.calm()
    yield controller
