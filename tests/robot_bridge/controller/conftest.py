"""One running twin controller for all tests here; whoever kills it finds it restarted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.twin_controller import RunningController, new_host


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    running = RunningController(tmp_path_factory.mktemp("controller"), new_host())
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def robot(controller: RunningController) -> Iterator[RunningController]:
    """The controller, powered on and without faults."""
    if controller.process.poll() is not None:
        controller.start()
    controller.calm()
    yield controller
