"""Which rclpy executor spins a node, and how to spin it so that a stop is noticed.

The events executor costs a fifth of the CPU of the classic one at 500 Hz, but not every ROS 2 release has it, and the
endless ``spin()`` of the build on PyPI never runs a callback: it is therefore always spun in finite slices.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

_SLICE_S = 0.2


def make_executor(context: Context | None = None) -> Any:
    """The events executor where this rclpy has it, else the single-threaded one.

    ``PROPHRL_EXECUTOR=single`` forces the latter, to see how a node behaves on a release without the former.
    """
    if os.environ.get("PROPHRL_EXECUTOR", "events") == "events":
        try:
            from rclpy.experimental import EventsExecutor
        except ImportError:
            pass  # older rclpy: the classic executor below does the same work
        else:
            return EventsExecutor(context=context)
    return SingleThreadedExecutor(context=context)


def spin(executor: Any, stopping: Callable[[], bool]) -> None:
    """Run callbacks until ``stopping()`` is true; it is asked at least five times a second.

    Raises:
        ExternalShutdownException: the context was shut down by somebody else.
    """
    while not stopping():
        if isinstance(executor, SingleThreadedExecutor):
            executor.spin_once(timeout_sec=_SLICE_S)
        else:
            executor.spin_until_future_complete(Future(), _SLICE_S)
