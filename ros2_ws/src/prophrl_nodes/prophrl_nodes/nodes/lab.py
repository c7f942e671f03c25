"""The digital lab as a node: starts the twin's processes, reports on them, stops them. Only for cells with a twin.

Scene, camera and its secret place can be chosen here instead of in the cell file.

When leader or camera die they are started again (parameter ``restart``); without the controller there is no cell, so
its death ends this node with an error, and a launch file that requires it ends the launch.
"""

from __future__ import annotations

import sys
from typing import Any

from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ParameterSpec, PeriodicThread, ProphNode, run
from robot_bridge.cell import CAMERA_MOUNTS
from robot_bridge.cell_overrides import twin_overrides
from robot_bridge.twin.lab import Lab, LabFailed
from robot_bridge.twin.tasks import SCENE_IDS

CHECK_PERIOD_S = 0.2

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("restart", True, "start the leader's and the camera's process again when they die"),
    ParameterSpec("scene", "", "scene at the start, empty as in the cell file", choices=("", *SCENE_IDS)),
    ParameterSpec(
        "camera_seed", -1, "secret place of the camera; 0 the nominal place, -1 as in the cell file", -1, 2**31 - 1
    ),
    ParameterSpec("camera_mount", "", "where the camera is, empty as in the cell file", choices=("", *CAMERA_MOUNTS)),
    ParameterSpec("camera_profile", "", "size and rate of the camera as 848x480@6, empty as in the cell file"),
)


class LabNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("lab", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Read the cell; its processes are started when the node is activated."""
        self._lab = Lab(
            self.value("cell"),
            self.value("host") or "127.0.0.1",
            restart=self.value("restart"),
            report=lambda line: self.get_logger().info(line),
            camera_profile=self.value("camera_profile"),
            overrides=twin_overrides(
                scene=self.value("scene"),
                camera_seed=self.value("camera_seed"),
                camera_mount=self.value("camera_mount"),
            ),
        )
        self._ready = False
        self._thread: PeriodicThread | None = None

    def start(self) -> None:
        """Start the lab in the background; it takes seconds."""
        self._thread = PeriodicThread("lab", CHECK_PERIOD_S, self._look_after, self.fail)
        self._thread.start()

    def halt(self) -> None:
        """Stop the lab's processes."""
        if self._thread is not None:
            self._thread.stop(timeout_s=10.0)
        self._lab.stop()
        self._ready = False

    def health(self) -> Health:
        """Starting or running, and where."""
        values = {"host": self._lab.host, "directory": str(self._lab.directory)}
        if not self._ready:
            return Health(Level.WARN, "starting the lab", values)
        return Health(Level.OK, "the lab is running", values)

    def _look_after(self) -> None:
        try:
            if not self._ready:
                self._lab.start()
                self._ready = True
            self._lab.check()
        except LabFailed as error:
            self.request_stop(str(error), exit_code=1)


def main() -> None:
    """Entry point of the executable ``lab``."""
    sys.exit(run(LabNode))


if __name__ == "__main__":
    main()
