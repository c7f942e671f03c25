"""A ROS graph per test: its own domain, real node processes, and an observer in the test process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from prophrl_nodes.environment import ros_environment
from prophrl_nodes.executors import make_executor, spin
from prophrl_nodes.qos import RECORD
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

DOMAINS = range(40, 50)


@pytest.fixture
def ros_domain() -> Iterator[int]:
    """A ROS domain that no other test process on this machine uses at the same time."""
    deadline_s = time.monotonic() + 60.0
    while True:
        for domain in DOMAINS:
            lock = open(f"/tmp/prophrl-test-domain-{domain}.lock", "w")  # noqa: SIM115 (held until the test ends)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            yield domain
            lock.close()
            return
        assert time.monotonic() < deadline_s, f"all ROS domains {DOMAINS} are in use by other tests"
        time.sleep(0.2)


class NodeProcess:
    """One node in a process of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log_path = log
        with log.open("w") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 10.0) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """kill -9: nothing of the node's own clean-up runs."""
        self.process.kill()
        self.process.wait(5.0)

    def stop(self) -> int:
        """SIGTERM, and SIGKILL when that is ignored; the return code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.end()

    def end(self, timeout_s: float = 20.0) -> int:
        """Wait for a process that was asked to end; SIGKILL when it does not. The return code."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        return int(self.process.returncode)


class Graph:
    """Starts nodes, listens to them and asks them; everything within one ROS domain."""

    def __init__(self, domain: int, folder: Path) -> None:
        self.domain = domain
        self.environment = ros_environment(domain) | {"ROS_LOG_DIR": str(folder / "ros_log")}
        self._folder = folder
        self.processes: list[NodeProcess] = []
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("observer", context=self.context)
        self._stopping = False
        self._executor = make_executor(self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self.statuses: list[DiagnosticStatus] = []
        self._clients: dict[str, Any] = {}
        self._listen_to_diagnostics()
        self._thread.start()

    def start(
        self, module: str, *arguments: str, environment: dict[str, str] | None = None, **parameters: Any
    ) -> NodeProcess:
        """Start ``python -m module`` with ROS parameters; ``arguments`` go behind ``--ros-args``."""
        settings = [item for name, value in parameters.items() for item in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", module, "--ros-args", *settings, *arguments]
        log = self._folder / f"{module.rsplit('.', 1)[-1]}-{len(self.processes)}.log"
        process = NodeProcess(command, environment or self.environment, log)
        self.processes.append(process)
        return process

    def collect(self, kind: Any, topic: str, qos: Any = RECORD) -> list[Any]:
        """A list that grows with every message of a topic."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
        """Wait until ``condition()`` is true and return it; fail with the nodes' logs after the deadline."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline_s:
                logs = "\n".join(f"--- {p.log_path.name}\n{p.log[-3000:]}" for p in self.processes)
                said = "\n".join(f"{s.name}: {s.message}" for s in self.statuses[-20:])
                pytest.fail(f"not within {timeout_s} s: {what}\n{said}\n{logs}")
            time.sleep(0.01)

    def call(self, kind: Any, service: str, request: Any = None, timeout_s: float = 20.0) -> Any:
        """Ask a service and return its response.

        A server that has just met our client may lose its first answer, so it is asked again after a while: all our
        services may be asked twice.
        """
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        client = self._clients[service]
        self.until(client.service_is_ready, f"service {service} to be there", timeout_s)
        deadline_s = time.monotonic() + timeout_s
        answers: list[Any] = []
        while not any(answer.done() for answer in answers):
            answers.append(client.call_async(request if request is not None else kind.Request()))
            again_s = time.monotonic() + 10.0
            while time.monotonic() < again_s and not any(answer.done() for answer in answers):
                if time.monotonic() > deadline_s:
                    self.until(lambda: False, f"an answer of {service}", 0.0)
                time.sleep(0.005)
        return next(answer for answer in answers if answer.done()).result()

    def action_client(self, kind: Any, name: str) -> Any:
        """A client of an action, made in the thread that spins: rclpy lets an executor see it before it is complete."""
        made = self._executor.create_task(lambda: ActionClient(self.node, kind, name))
        self.until(made.done, f"a client of {name}")
        return made.result()

    def said(self, node: str, words: str, since: int = 0) -> DiagnosticStatus | None:
        """The first diagnostic of a node, from index ``since`` on, whose message holds ``words``."""
        return next((s for s in self.statuses[since:] if s.name == node and words in s.message), None)

    def wait_said(self, node: str, words: str, *, since: int = 0, timeout_s: float = 20.0) -> DiagnosticStatus:
        """Wait for such a diagnostic."""
        found = self.until(lambda: self.said(node, words, since), f"{node} to say {words!r}", timeout_s)
        assert isinstance(found, DiagnosticStatus)
        return found

    def close(self) -> list[str]:
        """Stop everything; the logs of nodes that did not end in order when they were asked to."""
        running = [process for process in self.processes if process.process.poll() is None]
        for process in running:
            process.process.terminate()
        unclean = [process for process in running if process.end() != 0]
        self._stopping = True
        self._thread.join(5.0)
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)
        return [f"--- {p.log_path.name} ended with {p.process.returncode}\n{p.log[-3000:]}" for p in unclean]

    def _spin(self) -> None:
        try:
            spin(self._executor, lambda: self._stopping)
        except ExternalShutdownException:
            return

    def _listen_to_diagnostics(self) -> None:
        def keep(message: DiagnosticArray) -> None:
            self.statuses.extend(message.status)

        self.node.create_subscription(DiagnosticArray, "/diagnostics", keep, 100)


@pytest.fixture
def graph(ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    """An empty ROS graph with an observer; its processes are stopped when the test ends."""
    for name, value in ros_environment(ros_domain).items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "ros_log"))
    graph = Graph(ros_domain, tmp_path)
    yield graph
    unclean = graph.close()
    assert not unclean, "\n".join(unclean)
