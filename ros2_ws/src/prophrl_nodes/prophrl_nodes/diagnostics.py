"""What every node says on /diagnostics: how it is, what happened, what to do, and the figures behind it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from prophrl_nodes.messages import header

Value = str | int | float | bool


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Health:
    """How a node is: a level, one sentence (what happened and what to do), and figures."""

    level: Level
    message: str
    values: Mapping[str, Value] = field(default_factory=dict)


class DiagnosticsReporter:
    """Publishes a node's health once a second, and at once when the level or the sentence changes.

    Figures in a sentence ("silent for 0.4 s") do not count as a change, or a growing age would be published at the
    polling rate.
    """

    PERIOD_S = 1.0

    def __init__(self, node: Node, health: Callable[[], Health], hardware_id: str = "") -> None:
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._node = node
        self._health = health
        self._hardware_id = hardware_id
        self._said: tuple[Level, str] | None = None
        self._said_at_s = float("-inf")

    def poll(self) -> None:
        """Ask for the health; publish it when it changed or a second has passed."""
        health = self._health()
        saying = (health.level, re.sub(r"[-+]?\d+(\.\d+)?", "#", health.message))
        changed = saying != self._said
        now_s = time.monotonic()
        if not changed and now_s - self._said_at_s < self.PERIOD_S:
            return
        if changed:
            self._log(health)
        self._said, self._said_at_s = saying, now_s
        self._publisher.publish(self._message(health))

    def _log(self, health: Health) -> None:
        logger = self._node.get_logger()
        if health.level in (Level.OK, Level.STALE):  # stale: not active, or stopping because it was asked to
            logger.info(health.message)
        elif health.level == Level.WARN:
            logger.warning(health.message)
        else:
            logger.error(health.message)

    def _message(self, health: Health) -> DiagnosticArray:
        status = DiagnosticStatus(
            level=bytes([health.level]),
            name=self._node.get_fully_qualified_name().lstrip("/"),
            message=health.message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=_text(value)) for key, value in health.values.items()],
        )
        return DiagnosticArray(header=header(time.time_ns()), status=[status])


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
