"""Images between two processes: every pixel arrives, and a subscriber that dies disturbs nobody."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from prophrl_nodes import qos
from sensor_msgs.msg import CameraInfo, Image

from prophrl_models.data.cdr import parse_image
from prophrl_models.data.streams import color_sample

HEIGHT, WIDTH = 480, 848

SOURCE = """
    import sys
    import numpy as np
    from sensor_msgs.msg import Image
    from prophrl_nodes import qos
    from prophrl_nodes.ros import ImageMessage, PeriodicThread, ProphNode, run

    class Source(ProphNode):
        def __init__(self):
            super().__init__("source")

        def setup(self):
            self.number = 0
            self.color = ImageMessage(480, 848, "rgb8", "camera_color_optical_frame")
            self.depth = ImageMessage(480, 848, "16UC1", "camera_color_optical_frame")
            self.colors = self.publisher(Image, "color", qos.IMAGE_SOURCE)
            self.depths = self.publisher(Image, "depth", qos.IMAGE_SOURCE)

        def start(self):
            self.thread = PeriodicThread("source", 1 / 30, self.publish, self.fail)
            self.thread.start()

        def halt(self):
            self.thread.stop()

        def publish(self):
            self.number += 1
            random = np.random.default_rng(self.number)
            self.colors.publish(self.color.fill(random.integers(0, 256, (480, 848, 3), np.uint8), self.number))
            self.depths.publish(self.depth.fill(random.integers(0, 65536, (480, 848), np.uint16), self.number))

    sys.exit(run(Source))
"""


def start_source(graph: Any, folder: Path) -> Any:
    (folder / "image_source.py").write_text(textwrap.dedent(SOURCE))
    path = os.pathsep.join([str(folder), *sys.path])
    return graph.start("image_source", environment=graph.environment | {"PYTHONPATH": path})


def test_every_pixel_of_colour_and_depth_arrives_through_another_process(graph: Any, tmp_path: Path) -> None:
    raw: dict[str, list[bytes]] = {"color": [], "depth": []}
    for topic, received in raw.items():
        graph.node.create_subscription(Image, topic, received.append, qos.RECORD, raw=True)
    start_source(graph, tmp_path)
    graph.until(lambda: min(map(len, raw.values())) >= 10, "ten frames of each")
    numbers = []
    for cdr in raw["color"][:10]:
        number, rgb = color_sample(cdr)
        random = np.random.default_rng(number)
        np.testing.assert_array_equal(rgb, random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
        numbers.append(number)
    assert numbers == list(range(numbers[0], numbers[0] + 10))  # none lost, none repeated
    for cdr in raw["depth"][:10]:
        image = parse_image(cdr)
        assert (image.encoding, image.frame_id) == ("16UC1", "camera_color_optical_frame")
        random = np.random.default_rng(image.stamp_ns)
        random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        expected = random.integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
        np.testing.assert_array_equal(image.data.view(np.uint16).reshape(HEIGHT, WIDTH), expected)


def test_a_subscriber_killed_in_the_middle_disturbs_nobody(graph: Any, tmp_path: Path) -> None:
    listener = """
        import sys
        from sensor_msgs.msg import Image
        from prophrl_nodes import qos
        from prophrl_nodes.ros import ProphNode, run

        class Listener(ProphNode):
            def __init__(self):
                super().__init__("listener")

            def setup(self):
                self.subscribe(Image, "color", lambda message: None, qos.RECORD)

        sys.exit(run(Listener))
    """
    (tmp_path / "listener.py").write_text(textwrap.dedent(listener))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    listener_process = graph.start("listener", environment=graph.environment | {"PYTHONPATH": path})
    stamps: list[int] = []
    graph.node.create_subscription(
        Image, "color", lambda cdr: stamps.append(color_sample(cdr)[0]), qos.RECORD, raw=True
    )
    start_source(graph, tmp_path)
    graph.wait_said("listener", "active")
    graph.until(lambda: len(stamps) > 5, "frames")
    listener_process.kill()
    count = len(stamps)
    graph.until(lambda: len(stamps) > count + 60, "two seconds of frames after the kill")
    gaps = np.diff(stamps)
    assert gaps.max() == 1  # not one frame was lost


def test_the_camera_node_reports_a_camera_that_is_not_there_and_stops_cleanly(graph: Any) -> None:
    infos = graph.collect(CameraInfo, "camera/color/camera_info")
    process = graph.start("prophrl_nodes.nodes.camera", host="127.0.0.99")
    said = graph.wait_said("camera", "no camera frames:")
    assert "lab" in said.message
    assert infos == []
    assert process.stop() == 0
