"""Parameters of the recorder node; ``config/nodes/recorder.yaml`` shows them with their values."""

from __future__ import annotations

from typing import Any

from prophrl_nodes.ros import ParameterSpec

_TOPICS: Any = [
    "camera/color/image_raw",
    "camera/color/camera_info",
    "camera/aligned_depth_to_color/image_raw",
    "joint_states",
    "tcp_pose_broadcaster/pose",
    "gripper/state",
    "gello/joint_states",
    "servo/target",
    "servo/status",
    "io_and_status_controller/robot_mode",
    "io_and_status_controller/safety_mode",
    "policy/chunk",
    "policy/plan",
    "executor/status",
    "drift/verdict",
    "/tf",
    "/tf_static",
]
_REQUIRED: Any = ["camera/color/image_raw", "joint_states", "tcp_pose_broadcaster/pose", "gripper/state"]

PARAMETERS = (
    ParameterSpec("cell", "twin", "cell file, by name or path; its calibration is copied into every episode"),
    ParameterSpec("host", "", "replaces {host} in the cell file; empty: 127.0.0.1"),
    ParameterSpec("output", "bags", "folder under which episodes are kept"),
    ParameterSpec("topics", _TOPICS, "topics to record; relative names follow the node's namespace"),
    ParameterSpec("required_topics", _REQUIRED, "topics without which no episode is started ('' for none)"),
    ParameterSpec("depth", 100, "messages the middleware keeps per topic while the recorder is busy", 1, 10000),
    ParameterSpec(
        "disk_reserve_gb", 2.0, "free space below which nothing is recorded, in GB", 0.0, 1e6, changeable=True
    ),
    ParameterSpec("flush_period_s", 0.5, "longest time a message stays in memory: what a kill can cost", 0.05, 10.0),
    ParameterSpec("sync_period_s", 1.0, "how often the bag goes to the disk: what a power cut can cost", 0.1, 60.0),
    ParameterSpec("publisher_wait_s", 3.0, "how long a start waits for required topics to be discovered", 0.0, 60.0),
)
