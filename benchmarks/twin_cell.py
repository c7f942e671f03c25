"""What benchmarks of a whole twin cell share: arguments, a ROS node spun in a thread, nodes as processes, waiting."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from prophrl_nodes.environment import ros_environment
from prophrl_nodes.executors import make_executor, spin
from rclpy.node import Node
from std_srvs.srv import Trigger

ANSWER_S = 3.0
DEADLINE_S = 60.0


def cell_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the twin lives."""
    parser.add_argument("--host", default="127.0.0.1", help="loopback address of the lab (default 127.0.0.1)")
    parser.add_argument("--domain", type=int, default=0, help="ROS_DOMAIN_ID (default 0)")


class SpunNode(Node):  # type: ignore[misc]
    """A node whose callbacks run in a thread of their own."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._stopping = False
        self._spun_by = make_executor()
        self._spun_by.add_node(self)
        self._spinner = threading.Thread(target=spin, args=(self._spun_by, lambda: self._stopping), daemon=True)
        self._spinner.start()

    def ask(self, client: Any) -> str | None:
        """Call a Trigger service; "" when it agreed, its words when it refused, None without an answer in time."""
        if not client.service_is_ready():
            return None
        answer = client.call_async(Trigger.Request())
        deadline_s = time.monotonic() + ANSWER_S  # a server that was just started may lose its first answer
        while not answer.done() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if not answer.done():
            return None
        return "" if answer.result().success else str(answer.result().message)

    def finish(self) -> None:
        """Stop spinning."""
        self._stopping = True
        self._spinner.join()
        self._spun_by.shutdown()


def start_node(name: str, domain: int, parameters: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """One of our nodes as a process; ``parameters`` are ``name:=value``."""
    settings = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", f"prophrl_nodes.nodes.{name}", *(["--ros-args", *settings] if settings else [])]
    return subprocess.Popen(command, env=ros_environment(domain), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all to stop, then wait for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(20.0)


def until(
    condition: Callable[[], Any], what: str, poll_s: float = 0.02, why_not: Callable[[], str] = lambda: ""
) -> None:
    """Poll with a deadline.

    Raises:
        TimeoutError: the condition did not come true; names it, and what ``why_not`` says.
    """
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {DEADLINE_S:.0f} s for {what}{why_not()}")
        time.sleep(poll_s)
