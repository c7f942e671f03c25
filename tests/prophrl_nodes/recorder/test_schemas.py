"""What is embedded in a bag so that it can be decoded where our interfaces are not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from prophrl_nodes.recorder.schemas import SchemaError, message_schema
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

TYPES = [
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CameraInfo",
    "sensor_msgs/msg/JointState",
    "geometry_msgs/msg/PoseStamped",
    "prophrl_interfaces/msg/ServoTarget",
    "prophrl_interfaces/msg/ServoStatus",
    "prophrl_interfaces/msg/ActionChunk",
    "prophrl_interfaces/msg/GripperState",
    "prophrl_interfaces/msg/RobotMode",
    "diagnostic_msgs/msg/DiagnosticArray",
]


@pytest.mark.parametrize("type_name", TYPES)
def test_the_embedded_text_alone_reproduces_the_types_rihs01_hash(type_name: str) -> None:
    """rosbags parses the text from scratch and computes the hash; the installed hash was computed by rosidl."""
    schema = message_schema(type_name)
    store = get_typestore(Stores.EMPTY)
    parts = schema.text.split("=" * 80 + "\nMSG: ")
    types = get_types_from_msg(parts[0], type_name)
    for part in parts[1:]:
        name, _, text = part.partition("\n")
        package, _, message = name.partition("/")
        types |= get_types_from_msg(text, f"{package}/msg/{message}")
    store.register(types)
    assert schema.type_hash.startswith("RIHS01_")
    assert store.hash_rihs01(type_name) == schema.type_hash


def test_every_dependency_is_embedded_once() -> None:
    text = message_schema("prophrl_interfaces/msg/ServoTarget").text
    names = [line for line in text.splitlines() if line.startswith("MSG: ")]
    assert sorted(names) == [
        "MSG: builtin_interfaces/Time",
        "MSG: geometry_msgs/Point",
        "MSG: geometry_msgs/Pose",
        "MSG: geometry_msgs/Quaternion",
        "MSG: std_msgs/Header",
    ]


def test_short_and_long_type_names_mean_the_same() -> None:
    assert message_schema("sensor_msgs/Image") == message_schema("sensor_msgs/msg/Image")


def test_definitions_of_an_overlay_win_over_those_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share" / "overlay_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Pair.msg").write_text("Single[<=3] both  # bounded array of a type of the same package\nint8 MAX=3\n")
    (folder / "Single.msg").write_text("string<=5 name\nstd_msgs/Header header")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    schema = message_schema("overlay_msgs/msg/Pair")
    assert [line for line in schema.text.splitlines() if line.startswith("MSG:")] == [
        "MSG: overlay_msgs/Single",
        "MSG: std_msgs/Header",
        "MSG: builtin_interfaces/Time",
    ]
    assert schema.type_hash == ""  # nothing installed beside the text says it


def test_a_type_that_is_not_installed_is_named_with_the_places_searched() -> None:
    with pytest.raises(SchemaError, match=r"no definition of no_such_msgs/msg/Thing.*share/no_such_msgs/msg/Thing.msg"):
        message_schema("no_such_msgs/msg/Thing")


@pytest.mark.parametrize("name", ["Image", "sensor_msgs/srv/SetCameraInfo", "../msg/Image", ""])
def test_names_that_are_no_message_types_are_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="is not a message type"):
        message_schema(name)
