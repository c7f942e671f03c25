"""The samples of a bag in the order they arrived: what a live node would have been given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prophrl_models.data.bag import Bag, BagError, BagMessage
from prophrl_models.data.streams import (
    COLOR,
    DEPTH,
    TCP_POSE,
    Topics,
    color_sample,
    depth_sample,
    gripper_sample,
    pose_sample,
)

Sample = tuple[int, str, int, Any]
"""(receive time ns, stream, acquisition stamp ns, value as ``Synchroniser.push`` or ``DepthTrack.push`` takes it)."""


def read_samples(
    bag: Bag, topics: Topics, on_status: Callable[[BagMessage], None], *, with_depth: bool = False
) -> Iterator[Sample]:
    """All samples of the three streams; messages of the servo status, where recorded, go to ``on_status``.

    ``with_depth`` adds the depth stream.

    Raises:
        BagError: a stream's topic is missing, or a message cannot become a sample; names topic and time.
    """
    stream_of = {bag.resolve(name): stream for stream, name in topics.of_streams().items()}
    if with_depth:
        stream_of[_depth_topic(bag, topics)] = DEPTH
    wanted = f"/{topics.servo_status.lstrip('/')}"
    status = [topic for topic, info in bag.topics.items() if info.count and f"/{topic.lstrip('/')}".endswith(wanted)]
    for message in bag.messages([*stream_of, *status]):
        if message.topic not in stream_of:
            on_status(message)
            continue
        stream = stream_of[message.topic]
        value: Any
        try:
            if stream == COLOR:
                stamp_ns, value = color_sample(message.cdr)
            elif stream == DEPTH:
                stamp_ns, value = depth_sample(message.cdr)
            else:
                decoded = bag.decode(message)
                stamp_ns, value = pose_sample(decoded) if stream == TCP_POSE else gripper_sample(decoded)
        except BagError:
            raise
        except ValueError as error:
            after_s = (message.log_time_ns - bag.start_ns) * 1e-9
            raise BagError(f"{bag.name}: {message.topic}, {after_s:.3f} s after the start: {error}") from error
        yield message.log_time_ns, stream, stamp_ns, value


def _depth_topic(bag: Bag, topics: Topics) -> str:
    try:
        return bag.resolve(topics.depth)
    except BagError as error:
        raise BagError(f"{error} Depth was asked for: record it, or build without depth") from error
