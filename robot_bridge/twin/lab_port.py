"""The lab's operations on the controller's process: scenes, the truth about them, red buttons, faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from calibration.poses import inverse
from robot_bridge.cell import TwinConfig
from robot_bridge.twin.camera_place import CameraPlace
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.json_lines import Reply
from robot_bridge.twin.tasks import (
    CALIBRATION,
    CALIBRATION_TABLE,
    TASK_IDS,
    Placement,
    get_scene,
    sample_placement,
)
from robot_bridge.twin.tick_clock import TickClock
from robot_bridge.twin.ur_controller import UrController
from robot_bridge.twin.world import World


class LabPort:
    """Handler for ``JsonLinesServer``: one method an operation.

    Args:
        controller: the robot whose world this is.
        config: the twin section of the cell file.
        faults: the switches of this lab.
        clock: of the controller's loop, for its statistics.
        on_shutdown: ends the process.
    """

    def __init__(
        self,
        controller: UrController,
        config: TwinConfig,
        faults: Faults,
        clock: TickClock,
        on_shutdown: Callable[[], None],
    ) -> None:
        self._controller = controller
        self._config = config
        self._faults = faults
        self._clock = clock
        self._on_shutdown = on_shutdown
        self._camera = CameraPlace(config, faults)
        self._random = np.random.default_rng(config.seed)
        self._operations: dict[str, Callable[[Mapping[str, Any]], Reply]] = {
            "reset_scene": self._reset_scene,
            "truth": lambda _: self._truth(),
            "status": lambda _: self._status(),
            "fault": self._fault,
            "faults": lambda _: {"faults": self._faults.describe()},
            "clear_faults": lambda _: self._clear_faults(),
            "protective_stop": lambda _: self._stop(lambda: controller.modes.protective_stop("asked for by the lab")),
            "emergency_stop": lambda a: self._stop(lambda: controller.modes.emergency_stop(_switch(a))),
            "safeguard_stop": lambda a: self._stop(lambda: controller.modes.safeguard_stop(_switch(a))),
            "shutdown": self._shutdown,
        }

    def handle(self, op: str, arguments: Mapping[str, Any]) -> Reply:
        """Run one operation.

        Raises:
            ValueError: unknown operation or unusable arguments.
        """
        if op not in self._operations:
            raise ValueError(f"no such operation; operations are {', '.join(self._operations)}")
        return self._operations[op](arguments)

    def _reset_scene(self, arguments: Mapping[str, Any]) -> Reply:
        controller, world = self._controller, self._controller.world
        wanted = get_scene(str(arguments.get("task") or world.task.id)).id
        given = arguments.get("placement")
        placement = Placement.from_json(given) if given is not None else self._new_placement(wanted)
        # Both calibration scenes go by the name of the first: the placement says where the board is.
        if placement.task != wanted and (wanted != CALIBRATION or placement.task != CALIBRATION_TABLE):
            raise ValueError(f"the placement is for task {placement.task!r}, the scene for {wanted!r}")
        if placement.task != world.task.id:
            world = World(placement.task, dh_deltas=self._config.dh_deltas, seed=self._config.seed)
        controller.set_world(world, placement)
        self._clock.restart()
        return {"task": placement.task, "placement": placement.to_json(), "scene_revision": controller.scene_revision}

    def _new_placement(self, scene_id: str) -> Placement:
        if scene_id in TASK_IDS:
            return sample_placement(scene_id, self._random)
        if scene_id == CALIBRATION and self._camera.on_tool:
            return Placement(CALIBRATION_TABLE)  # a camera on the tool cannot see a board on the tool
        return Placement(scene_id)

    def _truth(self) -> Reply:
        world = self._controller.world
        report = world.success()
        return self._geometry() | {
            "task": world.task.id,
            "instruction": world.task.instruction,
            "objects": {name: T.tolist() for name, T in world.object_poses().items()},
            "T_base_tcp": world.T_base_tcp.tolist(),
            "gripper_opening": world.gripper_opening,
            "object_detected": world.gripper_object_detected,
            "placement": world.placement.to_json(),
            "success": report.success,
            "reason": report.reason,
            "terms": {name: bool(holds) for name, holds in report.terms.items()},
            "scene_revision": self._controller.scene_revision,
        }

    def _geometry(self) -> Reply:
        """Where camera and board really are, 4x4; what is on the tool also in the tool's frame."""
        world = self._controller.world
        T_base_tool = world.T_base_tcp
        truth: dict[str, Any] = {
            "camera_mount": self._config.camera_mount,
            "T_base_camera": self._camera.T_base_camera(T_base_tool).tolist(),
        }
        if self._camera.on_tool:
            truth["T_tool_camera"] = self._camera.T_mount_camera().tolist()
        if world.task.id not in (CALIBRATION, CALIBRATION_TABLE):
            return truth
        T_base_board = world.object_poses()["board"]
        truth |= {"board": world.placement.to_json()["board"], "T_base_board": T_base_board.tolist()}
        if world.task.id == CALIBRATION:
            truth["T_tool_board"] = (inverse(T_base_tool) @ T_base_board).tolist()
        return truth

    def _status(self) -> Reply:
        controller, state = self._controller, self._controller.state
        program = controller.interpreter.program
        return {
            "tick": controller.tick,
            "time_s": state.timestamp,
            "task": controller.world.task.id,
            "scene_revision": controller.scene_revision,
            "robot_mode": controller.modes.robot_mode.name,
            "safety_mode": controller.modes.safety_mode.name,
            "stop_reason": controller.modes.stop_reason,
            "program": program.name if program is not None else "",
            "q": list(state.actual_q),
            "T_base_tcp": controller.world.T_base_tcp.tolist(),
            "log": list(controller.interpreter.log)[-20:],
            **self._clock.statistics(),
        }

    def _fault(self, arguments: Mapping[str, Any]) -> Reply:
        if "name" not in arguments or "value" not in arguments:
            raise ValueError("needs the keys 'name' and 'value'; operation 'faults' lists the names")
        self._faults.set(str(arguments["name"]), arguments["value"])
        described = {entry["name"]: entry["value"] for entry in self._faults.describe()}
        return {"name": arguments["name"], "value": described[str(arguments["name"])]}

    def _clear_faults(self) -> Reply:
        self._faults.clear()
        return {}

    def _shutdown(self, _: Mapping[str, Any]) -> Reply:
        self._on_shutdown()
        return {}

    def _stop(self, action: Callable[[], None]) -> Reply:
        action()
        modes = self._controller.modes
        return {"robot_mode": modes.robot_mode.name, "safety_mode": modes.safety_mode.name}


def _switch(arguments: Mapping[str, Any]) -> bool:
    value = arguments.get("on")
    if not isinstance(value, bool):
        raise ValueError(f"needs the key 'on' with true or false, got {value!r}")
    return value
