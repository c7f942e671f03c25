"""A node that offers easy_handeye2's services and a client that uses all of them; prints what the client saw as JSON.

Run as a process of its own (``test_easy_handeye_services.py``), because the libraries of ``easy_handeye2_msgs`` must be
on the loader's path from the start.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from easy_handeye2_msgs import srv
from prophrl_nodes.calibrating.easy_handeye_services import NAMESPACE, EasyHandeyeServices
from prophrl_nodes.executors import make_executor, spin
from prophrl_nodes.node_base import ProphNode, Refused
from rclpy.context import Context
from rclpy.node import Node
from scipy.spatial.transform import Rotation
from std_msgs.msg import Empty

from calibration.closed_form import METHODS, closed_form
from calibration.easy_handeye import HandeyeParameters, HandeyeSample, poses, sample_of_poses
from calibration.poses import Array, inverse, transform

X = transform((-1.2, 0.1, 0.6), Rotation.from_euler("xyz", (-2.2, 0.1, 1.5)))
Y = transform((0.01, -0.1, -0.06), Rotation.from_euler("xyz", (1.2, 0.02, 0.03)))
PARAMETERS = HandeyeParameters(
    "lab", "eye_on_base", "base", "tcp", "camera_color_optical_frame", "calibration_board", True
)
VIEWS = 6


class Session:
    """Six exact views, then nothing more to see."""

    def __init__(self) -> None:
        self.algorithm = "prophrl/park"
        self.algorithms = [f"prophrl/{name}" for name in METHODS]
        self.parameters = PARAMETERS
        self._samples: list[HandeyeSample] = []

    def samples(self) -> Sequence[HandeyeSample]:
        return self._samples

    async def current_sample(self) -> HandeyeSample:
        index = len(self._samples)
        if index >= VIEWS:
            raise Refused("the board is out of sight")
        turn = Rotation.from_rotvec(0.5 * np.random.default_rng(index).normal(size=3))
        T_base_tool = transform((-0.6, 0.05 * index, 0.4), turn)
        return sample_of_poses(T_base_tool, inverse(X) @ T_base_tool @ Y, "eye_to_hand")

    async def take_sample(self) -> None:
        self._samples.append(await self.current_sample())

    async def remove_sample(self, index: int) -> None:
        if not 0 <= index < len(self._samples):
            raise Refused(f"there is no sample {index}")
        del self._samples[index]

    async def load_samples(self, samples: Sequence[HandeyeSample]) -> None:
        self._samples = list(samples)

    async def compute(self) -> Array:
        if len(self._samples) < 3:
            raise Refused("three views at least")
        return closed_form(*poses(self._samples, "eye_to_hand"), "eye_to_hand", self.algorithm.split("/")[1])[0]

    async def save(self) -> str:
        Path("ours.yaml").write_text("saved")
        return "ours.yaml"


def converse(client: Node) -> dict[str, Any]:
    def ask(name: str, kind: Any, **request: Any) -> Any:
        caller = client.create_client(kind, NAMESPACE + name)
        assert caller.wait_for_service(20.0), name
        return caller.call(kind.Request(**request), timeout_sec=20.0)

    def count() -> int:
        return len(ask("get_sample_list", srv.TakeSample).samples.samples)

    seen: dict[str, Any] = {"too_early": ask("save_calibration", srv.SaveCalibration).success}
    seen["without_views"] = ask("compute_calibration", srv.ComputeCalibration).valid
    seen["current"] = len(ask("get_current_transforms", srv.TakeSample).samples.samples)
    seen["counts"] = [len(ask("take_sample", srv.TakeSample).samples.samples) for _ in range(VIEWS + 1)]
    seen["out_of_sight"] = len(ask("get_current_transforms", srv.TakeSample).samples.samples)
    seen["removed"] = len(ask("remove_sample", srv.RemoveSample, sample_index=0).samples.samples)
    seen["removed_nothing"] = len(ask("remove_sample", srv.RemoveSample, sample_index=-1).samples.samples)
    seen["saved_samples"] = ask("save_samples", srv.SaveSamples).success
    buttons = {name: client.create_publisher(Empty, NAMESPACE + name, 10) for name in ("take_sample", "remove_sample")}
    for name, expected in (("remove_sample", 4), ("take_sample", 5)):
        while buttons[name].get_subscription_count() == 0:
            time.sleep(0.01)
        buttons[name].publish(Empty())
        deadline_s = time.monotonic() + 20.0
        while count() != expected and time.monotonic() < deadline_s:
            time.sleep(0.05)
        seen[f"button_{name}"] = count()
    ask("remove_sample", srv.RemoveSample, sample_index=0)
    loaded = ask("load_samples", srv.LoadSamples)
    seen["loaded"] = [loaded.success, len(loaded.samples.samples)]
    listed = ask("list_algorithms", srv.ListAlgorithms)
    seen["algorithms"] = [list(listed.algorithms), listed.current_algorithm]
    seen["unknown_algorithm"] = ask("set_algorithm", srv.SetAlgorithm, new_algorithm="OpenCV/None").success
    seen["known_algorithm"] = ask("set_algorithm", srv.SetAlgorithm, new_algorithm="prophrl/daniilidis").success
    seen["current_algorithm"] = ask("list_algorithms", srv.ListAlgorithms).current_algorithm
    answer = ask("compute_calibration", srv.ComputeCalibration)
    at = answer.calibration.transform.translation
    seen["valid"], seen["position"] = answer.valid, [at.x, at.y, at.z]
    seen["type"] = answer.calibration.parameters.calibration_type
    saved = ask("save_calibration", srv.SaveCalibration)
    seen["saved"], seen["filepath"] = saved.success, saved.filepath.data
    return seen


def main() -> None:
    context = Context()
    rclpy.init(context=context, domain_id=int(sys.argv[1]))
    node, client = ProphNode("calibrator", context=context), Node("client", context=context)
    services = EasyHandeyeServices(node, Session())
    executor = make_executor(context)
    executor.add_node(node)
    executor.add_node(client)
    threading.Thread(target=lambda: spin(executor, lambda: False), daemon=True).start()
    seen = converse(client)
    services.close()
    deadline_s = time.monotonic() + 20.0
    while [
        name for name, _ in client.get_service_names_and_types_by_node("calibrator", "/") if name.startswith(NAMESPACE)
    ]:
        assert time.monotonic() < deadline_s, "services are still offered after close()"
        time.sleep(0.05)
    print(json.dumps(seen), flush=True)
    os._exit(0)  # the executor's thread has nothing to tidy up


if __name__ == "__main__":
    main()
