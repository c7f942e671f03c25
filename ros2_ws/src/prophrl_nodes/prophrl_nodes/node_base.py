"""The lifecycle node under every node of the house: parameters, diagnostics, verbs, clean starts and stops.

A node overrides ``setup`` (build publishers, subscriptions, devices), ``start``, ``halt`` (be idle again; always called
before the process ends), ``teardown`` and ``health``. Callbacks run in one thread; long work goes to ``in_thread``.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_srvs.srv import Trigger

from prophrl_nodes.diagnostics import DiagnosticsReporter, Health, Level
from prophrl_nodes.parameters import ParameterError, ParameterSpec, declare_parameters
from robot_bridge.cell import CellError

AUTOSTART = ParameterSpec(
    "autostart", True, "configure and activate without waiting for lifecycle transitions from outside"
)
CELL_PARAMETERS = (
    ParameterSpec("cell", "twin", "name of a cell file in config/cells, or the path of one"),
    ParameterSpec("host", "", "replaces {host} in the cell file, so that several labs run beside each other"),
)
DIAGNOSTICS_POLL_S = 0.1


class Refused(Exception):
    """A verb that cannot be obeyed now; the message says why and what to do about it."""


class NoAnswer(Refused):
    """Another node took a request but did not answer in time; what became of it is unknown."""


class ProphNode(LifecycleNode):
    """See the module's docstring. Keyword arguments beyond ``parameters`` and ``hardware_id`` go to rclpy's node."""

    def __init__(
        self, name: str, parameters: Sequence[ParameterSpec] = (), *, hardware_id: str = "", **node_arguments: Any
    ) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **node_arguments)
        declare_parameters(self, (AUTOSTART, *parameters))
        # A coroutine that waits must not keep the other callbacks from running, its own answer among them.
        self.callbacks = ReentrantCallbackGroup()
        self._owned: list[tuple[Callable[[Any], Any], Any]] = []
        self._active = False
        self._configured = False
        self._finalised = False
        self._failure = ""
        self._stop_reason = ""
        self._exit_code = 0
        self._stop_lock = threading.Lock()
        self._diagnostics = DiagnosticsReporter(self, self._overall_health, hardware_id or name)
        self.create_timer(DIAGNOSTICS_POLL_S, self._diagnostics.poll, callback_group=self.callbacks)

    # ---- what a node overrides

    def setup(self) -> None:
        """Build everything the node needs to run; raise with a helpful message when it cannot be built."""

    def start(self) -> None:
        """Begin the node's work."""

    def halt(self) -> None:
        """Stop the node's work and leave it safe. Called after ``setup``, but perhaps without ``start``."""

    def teardown(self) -> None:
        """Release what a completed ``setup`` took, except ROS entities made through this class."""

    def health(self) -> Health:
        """How the active node is; asked ten times a second, so it must be cheap and must not block."""
        return Health(Level.OK, "active")

    # ---- what a node uses

    @property
    def active(self) -> bool:
        """True between activation and deactivation: the gate for every callback."""
        return self._active

    def value(self, name: str) -> Any:
        """Current value of a declared parameter."""
        return self.get_parameter(name).value

    def publisher(self, kind: Any, topic: str, qos: QoSProfile) -> Any:
        """A publisher that lives until clean-up."""
        entity = self.create_publisher(kind, topic, qos, callback_group=self.callbacks)
        self._owned.append((self.destroy_publisher, entity))
        return entity

    def subscribe(
        self, kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile, *, raw: bool = False
    ) -> Any:
        """A subscription that lives until clean-up; while the node is inactive its messages are dropped."""

        def gated(message: Any) -> None:
            if self._active:
                callback(message)

        entity = self.create_subscription(kind, topic, gated, qos, callback_group=self.callbacks, raw=raw)
        self._owned.append((self.destroy_subscription, entity))
        return entity

    def timer(self, period_s: float, callback: Callable[[], None]) -> Any:
        """A timer that lives until clean-up; silent while the node is inactive."""

        def gated() -> None:
            if self._active:
                callback()

        entity = self.create_timer(period_s, gated, callback_group=self.callbacks)
        self._owned.append((self.destroy_timer, entity))
        return entity

    def client(self, kind: Any, name: str) -> Any:
        """A service client that lives until clean-up; ask through ``call``."""
        entity = self.create_client(kind, name, callback_group=self.callbacks)
        self._owned.append((self.destroy_client, entity))
        return entity

    def service(self, kind: Any, name: str, answer: Callable[[Any], Awaitable[str]]) -> Any:
        """A service whose response has ``success`` and ``message``: what ``answer`` returns, or why it refused."""

        async def serve(request: Any, response: Any) -> Any:
            try:
                response.message = await answer(request)
                response.success = True
                self.get_logger().info(f"{name}: {response.message}")
            except Refused as refusal:
                response.success, response.message = False, str(refusal)
                self.get_logger().warning(f"{name} refused: {refusal}")
            return response

        entity = self.create_service(kind, name, serve, callback_group=self.callbacks)
        self._owned.append((self.destroy_service, entity))
        return entity

    def verb(self, name: str, action: Callable[[], Awaitable[str]]) -> Any:
        """An operator verb: the service ``~/name`` of type std_srvs/Trigger."""

        async def answer(_request: Any) -> str:
            if not self._active:
                raise Refused(f"{self.get_name()} is not active; activate it first")
            return await action()

        return self.service(Trigger, f"~/{name}", answer)

    async def call(self, client: Any, request: Any, timeout_s: float = 5.0) -> Any:
        """Ask another node and wait for its answer, without holding up our other callbacks.

        Raises:
            Refused: nobody serves it.
            NoAnswer: no answer within ``timeout_s``.
        """
        if not client.service_is_ready():
            raise Refused(f"nobody serves {client.srv_name}; start the node it belongs to and try again")
        answer = client.call_async(request)

        def give_up() -> None:
            timeout.cancel()
            if not answer.done():
                client.remove_pending_request(answer)
                answer.set_exception(
                    NoAnswer(f"{client.srv_name} did not answer within {timeout_s:g} s; is its node still alive?")
                )

        timeout = self.create_timer(timeout_s, give_up, callback_group=self.callbacks)
        try:
            return await answer
        finally:
            self.destroy_timer(timeout)

    def in_thread(self, work: Callable[[], Any]) -> Future[Any]:
        """Run blocking ``work`` in a thread of its own; await the returned future for its result or exception."""
        future: Future[Any] = Future(executor=self.executor)

        def run_work() -> None:
            try:
                result = work()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run_work, name=f"{self.get_name()}-work", daemon=True).start()
        return future

    def request_stop(self, reason: str, exit_code: int = 0) -> None:
        """End the process soon, from any thread. The first reason wins and is logged."""
        with self._stop_lock:
            if self._stop_reason:
                return
            self._stop_reason, self._exit_code = reason, exit_code

    def fail(self, error: BaseException) -> None:
        """End the process because of an error that nobody foresaw; for the error hook of threads."""
        details = "".join(traceback.format_exception(error))
        self.request_stop(f"unexpected {type(error).__name__}: {error}\n{details}", exit_code=1)

    @property
    def stop_reason(self) -> str:
        """Why the process ends, empty while it runs."""
        return self._stop_reason

    @property
    def failure(self) -> str:
        """Why the last transition failed, empty when it did not."""
        return self._failure

    @property
    def exit_code(self) -> int:
        """What the process returns: 0 when it was asked to stop, 1 after an error."""
        return self._exit_code

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``setup``; a failure is logged, reported on /diagnostics and leaves the node unconfigured."""
        self._failure = ""
        self._configured = self._attempt("configure", self.setup)
        if not self._configured:
            self._release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the gate and run ``start``."""
        self._failure = ""
        self._active = True
        if not self._attempt("activate", self.start):
            self._active = False
            self.halt()
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the gate, then ``halt``: no callback runs after it."""
        self._active = False
        self.halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``teardown`` and destroy the ROS entities."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leave nothing running, whatever state the node was in, and end the process."""
        self._active, self._finalised = False, True
        if self._configured:
            self.halt()
        self._release()
        self.request_stop("lifecycle shutdown requested")
        return super().on_shutdown(state)

    def _attempt(self, what: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # rclpy would swallow it: say what happened, where it happened only if unforeseen
            self._failure = f"cannot {what}: {error}"
            if not isinstance(error, CellError | ParameterError | Refused | OSError):
                self.get_logger().error(traceback.format_exc())
            return False
        return True

    def _release(self) -> None:
        if self._configured:
            self._configured = False
            self.teardown()
        while self._owned:
            destroy, entity = self._owned.pop()
            destroy(entity)

    def _overall_health(self) -> Health:
        if self._stop_reason:
            level = Level.ERROR if self._exit_code else Level.STALE
            return Health(level, f"stopping: {self._stop_reason.splitlines()[0]}")
        if self._failure:
            return Health(Level.ERROR, self._failure)
        if not self._active:
            return Health(Level.STALE, "not active; configure and activate it")
        return self.health()

    def say_goodbye(self) -> None:
        """Put the last word about this node on /diagnostics."""
        self._diagnostics.poll()

    def leave(self) -> None:
        """Go through the shutdown transition from whatever state the node is in."""
        if not self._finalised:
            self.trigger_shutdown()
