"""Raw subscriptions of the recorder: found on the graph, matched to what the publishers offer, never decoded.

A topic is subscribed when somebody publishes it, with the type and the quality of service announced there, and
subscribed anew when that changes; so our device nodes, ur_robot_driver and realsense-ros can all be recorded with
the same list of names. Latched state (TRANSIENT_LOCAL, such as /tf_static) is remembered per publisher, because
every episode has to begin with it.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from prophrl_nodes.recorder.metadata import OfferedQos

MAX_LATCHED = 100


@dataclass(frozen=True)
class Arrival:
    """One message as it came off the wire. ``publisher`` and ``sequence`` are None where rmw does not tell."""

    data: bytes
    log_ns: int
    publish_ns: int
    publisher: bytes | None
    sequence: int | None


class TopicFeed:
    """One topic of the list, subscribed while somebody publishes it."""

    def __init__(
        self,
        node: Node,
        topic: str,
        on_message: Callable[[TopicFeed, Arrival], None],
        *,
        depth: int,
        callback_group: Any = None,
    ) -> None:
        """Prepare, without subscribing yet; call ``watch`` now and then.

        Args:
            node: whose names and graph are used.
            topic: name as in the list; relative names live in the node's namespace.
            on_message: called in the executor's thread with every live message.
            depth: messages the middleware keeps for us while we are busy.
        """
        self.name = node.resolve_topic_name(topic)
        self.type_name = ""
        self.type_hash = ""
        self.qos: tuple[OfferedQos, ...] = ()
        self.problem = "nobody publishes it"
        self.received = 0
        self.last_s = 0.0
        self._node = node
        self._on_message = on_message
        self._depth = depth
        self._group = callback_group
        self._subscription: Any = None
        self._subscribed_with: tuple[Any, ...] = ()
        self._latched: dict[Any, tuple[bytes, int]] = {}
        self._newest: dict[bytes, int] = {}
        self._publishers = 0

    @property
    def durable(self) -> bool:
        """Late subscribers of this topic get its last messages."""
        return bool(self._subscribed_with) and self._subscribed_with[2] == DurabilityPolicy.TRANSIENT_LOCAL

    @property
    def available(self) -> bool:
        """Somebody publishes it and we are subscribed."""
        return not self.problem

    def latched(self) -> list[tuple[bytes, int]]:
        """Last message of every living publisher of latched state: CDR bytes and publish time."""
        return sorted(self._latched.values(), key=lambda message: message[1])

    def watch(self) -> None:
        """Look at the graph and make the subscription fit it."""
        endpoints = self._node.get_publishers_info_by_topic(self.name)
        self._publishers = len(endpoints)
        alive = {bytes(e.endpoint_gid)[:16] for e in endpoints}
        self._latched = {k: v for k, v in self._latched.items() if not isinstance(k, bytes) or k in alive}
        types = sorted({e.topic_type for e in endpoints})
        if not endpoints:
            self.problem = "nobody publishes it"
            return
        if len(types) > 1:
            self.problem = f"is published with different types: {', '.join(types)}"
            return
        self.qos = tuple(dict.fromkeys(OfferedQos.of_profile(e.qos_profile) for e in endpoints))
        self.type_hash = next((h for h in (_type_hash(e) for e in endpoints) if h), "")
        self._subscribe(types[0], endpoints)

    def close(self) -> None:
        """End the subscription and forget everything received."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self._subscribed_with = None, ()
        self._latched.clear()
        self._newest.clear()
        self.problem = "nobody publishes it"

    def _subscribe(self, type_name: str, endpoints: list[Any]) -> None:
        profiles = [e.qos_profile for e in endpoints]
        reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
        durable = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        durability = DurabilityPolicy.TRANSIENT_LOCAL if durable else DurabilityPolicy.VOLATILE
        wanted = (type_name, reliability, durability)
        if wanted == self._subscribed_with:
            self.problem = ""
            return
        try:
            kind = _message_class(type_name)
        except (ImportError, AttributeError, ValueError) as error:
            self.problem = f"its type {type_name} is not installed here ({error}); build or install that package"
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=self._depth, reliability=reliability, durability=durability
        )
        self._subscription = self._node.create_subscription(
            kind, self.name, _WithInfo(self._receive), qos, callback_group=self._group, raw=True
        )
        self.type_name, self._subscribed_with, self.problem = type_name, wanted, ""

    def _receive(self, data: bytes, info: Mapping[str, Any]) -> None:
        publisher, sequence = _source(info)
        if publisher is None and self._publishers != 1:
            sequence = None  # numbers of several publishers cannot be told apart
        if publisher is not None and sequence is not None:
            if sequence <= self._newest.get(publisher, -1):
                return  # latched message delivered again because the subscription was made anew
            self._newest[publisher] = sequence
        log_ns = int(info["received_timestamp"]) or time.time_ns()
        publish_ns = int(info["source_timestamp"]) or log_ns
        self.received += 1
        self.last_s = time.monotonic()
        if self.durable:
            self._remember(publisher, data, publish_ns)
        self._on_message(self, Arrival(data, log_ns, publish_ns, publisher, sequence))

    def _remember(self, publisher: bytes | None, data: bytes, publish_ns: int) -> None:
        # Without the publisher's identity (before Kilted) distinct contents stand for distinct publishers.
        key: Any = publisher if publisher is not None else ("only" if self._publishers == 1 else hash(data))
        self._latched.pop(key, None)
        self._latched[key] = (data, publish_ns)
        if len(self._latched) > MAX_LATCHED:
            del self._latched[next(iter(self._latched))]


class _WithInfo:
    """A callback that asks for the message info, whichever way the executor hands it over.

    rclpy asks by the callback's signature. Kilted's events executor then passes one tuple instead of two arguments,
    and dies with a SystemError on a callback that does not expect that.
    """

    __signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("data", "info")]
    )

    def __init__(self, receive: Callable[[bytes, Mapping[str, Any]], None]) -> None:
        self._receive = receive

    def __call__(self, *arguments: Any) -> None:
        data, info = arguments[0] if len(arguments) == 1 else arguments
        self._receive(data, info)


def _message_class(type_name: str) -> Any:
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _source(info: Mapping[str, Any]) -> tuple[bytes | None, int | None]:
    """Publisher and its sequence number from rclpy's message info, None where this release does not tell."""
    gid = info.get("publisher_gid")
    sequence = info.get("publication_sequence_number")
    return (bytes(gid["data"])[:16] if gid else None), (None if sequence is None else int(sequence))


def _type_hash(endpoint: Any) -> str:
    """RIHS01 hash announced by a publisher; rclpy before Iron has none."""
    text = str(getattr(endpoint, "topic_type_hash", "") or "")
    return text if text.startswith("RIHS01_") else ""
