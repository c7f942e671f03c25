"""Blocking service and action calls for threads that are not the executor's.

A sequence of robot steps reads best as straight-line code in its own thread, while the node's executor
spins in the main thread and completes the futures.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.action import ActionClient
from rclpy.client import Client


class CallError(RuntimeError):
    """A service or action did not answer, or said no; the message names it and the next action."""


def wait_future(future: Any, timeout_s: float, what: str) -> Any:
    """Result of a future completed by another thread's executor.

    Raises:
        CallError: not done within ``timeout_s``.
    """
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(timeout_s):
        raise CallError(f"{what} did not answer within {timeout_s:.1f} s; is its node running? see /diagnostics")
    return future.result()


def call(client: Client, request: Any, timeout_s: float = 5.0) -> Any:
    """Call a service and return its response, waiting for the server to appear within the same time.

    Raises:
        CallError: no server, or no answer in time.
    """
    if not client.wait_for_service(timeout_sec=timeout_s):
        raise CallError(f"service {client.srv_name} is not offered; start the node that offers it")
    return wait_future(client.call_async(request), timeout_s, f"service {client.srv_name}")


def demand(client: Client, request: Any, timeout_s: float = 5.0) -> Any:
    """Like ``call`` for responses with ``success`` and ``message``; a refusal is an error.

    Raises:
        CallError: no answer, or ``success`` is false.
    """
    response = call(client, request, timeout_s)
    if not response.success:
        raise CallError(f"{client.srv_name} refused: {response.message}")
    return response


def demand_within(client: Client, make_request: Any, timeout_s: float, pause_s: float = 0.2) -> Any:
    """Repeat ``demand`` until it succeeds or time is up: for gates that open when things have settled."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return demand(client, make_request(), timeout_s=5.0)
        except CallError:
            if time.monotonic() > deadline:
                raise
            time.sleep(pause_s)


def send_goal(client: ActionClient, goal: Any, timeout_s: float = 5.0) -> Any:
    """Send an action goal and return the accepted goal handle.

    Raises:
        CallError: no server, no answer, or the goal was rejected.
    """
    name = client._action_name
    if not client.wait_for_server(timeout_sec=timeout_s):
        raise CallError(f"action {name} is not offered; start the node that offers it")
    handle = wait_future(client.send_goal_async(goal), timeout_s, f"action {name}")
    if not handle.accepted:
        raise CallError(f"action {name} rejected the goal; see /diagnostics for the reason")
    return handle


def goal_result(handle: Any, timeout_s: float, what: str) -> Any:
    """Result message of an accepted goal.

    Raises:
        CallError: not finished within ``timeout_s``.
    """
    return wait_future(handle.get_result_async(), timeout_s, what).result
