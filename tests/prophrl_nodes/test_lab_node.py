"""The lab as a node: scene, camera and its secret place come from parameters; the command line reaches into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from prophrl_nodes import qos
from prophrl_nodes.cli.main import main
from sensor_msgs.msg import CameraInfo

from robot_bridge.twin.camera_place import nudged, secret_pose
from robot_bridge.twin.lab_client import LabClient

PROFILE = "848x480@6"


@pytest.mark.slow
def test_parameters_choose_scene_camera_and_its_secret_place(
    graph: Any, loopback_host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    infos = graph.collect(CameraInfo, "camera/color/camera_info", qos.RECORD)
    chosen = {"scene": "calibration", "camera_seed": 5, "camera_profile": PROFILE}
    lab = graph.start("prophrl_nodes.nodes.lab", host=loopback_host, **chosen)
    graph.start("prophrl_nodes.nodes.camera", host=loopback_host, camera_profile=PROFILE)
    graph.until(lambda: infos, "the camera to deliver", 60.0)
    assert (infos[-1].width, infos[-1].height, infos[-1].k[0]) == (848, 480, 424.0)
    with LabClient(loopback_host) as client:
        truth = client.truth()
        assert (truth["task"], truth["board"]) == ("calibration", "tool")
        np.testing.assert_allclose(truth["T_base_camera"], secret_pose("fixed", 5), atol=1e-12)

        assert (
            main(["twin", "nudge", "0.005", "-0.002", "0", "--rotate", "0", "0.5", "0", "--host", loopback_host]) == 0
        )
        delta = (0.005, -0.002, 0.0, 0.0, np.radians(0.5), 0.0)
        moved = nudged(secret_pose("fixed", 5), delta)
        np.testing.assert_allclose(client.truth()["T_base_camera"], moved, atol=1e-12)
        assert main(["twin", "fault", "--host", loopback_host]) == 0
        assert "camera_nudge" in capsys.readouterr().out
        assert main(["twin", "nudge", "--back", "--host", loopback_host]) == 0
        np.testing.assert_allclose(client.truth()["T_base_camera"], secret_pose("fixed", 5), atol=1e-12)

        assert main(["twin", "reset", "calibration", "--board", "table", "--host", loopback_host]) == 0
        assert client.truth()["board"] == "table"
        assert main(["twin", "reset", "place_cube", "--seed", "1", "--host", loopback_host]) == 0
        assert client.truth()["task"] == "place_cube"
        assert main(["twin", "nudge", "0.1", "--host", loopback_host]) == 1
        assert "X Y Z in metres" in capsys.readouterr().err
    assert lab.stop() == 0


def test_lab_node_refuses_a_scene_that_does_not_exist(graph: Any, loopback_host: str) -> None:
    lab = graph.start("prophrl_nodes.nodes.lab", host=loopback_host, scene="kitchen")
    assert lab.wait(30.0) != 0
    assert "must be one of" in lab.log and "calibration_table" in lab.log
