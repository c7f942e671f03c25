"""Runs one node as a process: environment, signals, autostart, spinning, and an orderly end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from prophrl_nodes.environment import clean_shared_memory, ensure_environment
from prophrl_nodes.executors import make_executor, spin
from prophrl_nodes.node_base import ProphNode
from prophrl_nodes.parameters import ParameterError
from robot_bridge.cell import CellError

REPEATED_SIGNAL_S = 2.0


class RosLogHandler(logging.Handler):
    """Sends what the libraries below say through Python's logging to the node's log and /rosout."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record at its own level."""
        message = f"{record.name}: {record.getMessage()}"
        if record.levelno >= logging.ERROR:
            self._logger.error(message)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(message)
        else:
            self._logger.info(message)


def run(factory: Callable[[], ProphNode], arguments: Sequence[str] | None = None, *, niceness: int = 0) -> int:
    """Run one node until SIGINT, SIGTERM, lifecycle shutdown or an error; the process's exit code.

    Args:
        factory: makes the node.
        arguments: of ROS; the process's own when omitted.
        niceness: below 0, the node goes before others where cores are few: the arm may not wait for a recorder. Only
            root may ask for it, and who has a nice limit (``ulimit -e``); for others it is as without.

    0 after a stop that was asked for, 1 after an error, 2 when the node could not be built from its parameters.
    The node is deactivated while its context still lives, so its last words and safe commands reach the others.
    """
    ensure_environment()
    clean_shared_memory()
    if niceness:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, niceness)  # before there are threads: each has a niceness of its own
    rclpy.init(args=list(sys.argv if arguments is None else arguments), signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = factory()
    except (ParameterError, CellError) as error:
        print(f"error: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    except BaseException:
        rclpy.try_shutdown()
        raise
    _stop_on_signals(node)
    logging.getLogger().addHandler(RosLogHandler(node.get_logger()))
    executor = make_executor()
    executor.add_node(node)
    try:
        if node.value("autostart"):
            _autostart(node)
        spin(executor, lambda: bool(node.stop_reason))
    except ExternalShutdownException:
        node.request_stop("the ROS context was shut down")
    except Exception as error:
        node.fail(error)
    finally:
        _close(node, executor)
    return node.exit_code


def _autostart(node: ProphNode) -> None:
    for transition in (node.trigger_configure, node.trigger_activate):
        if transition() != TransitionCallbackReturn.SUCCESS:
            node.request_stop(node.failure or "autostart failed", exit_code=1)
            return


def _stop_on_signals(node: ProphNode) -> None:
    """Stop in order on the first signal; one that comes much later is for a node that hangs, and ends it at once.

    A Ctrl-C in a terminal often arrives twice: from the terminal and from the launcher.
    """
    first_s: list[float] = []

    def on_signal(number: int, _frame: object) -> None:
        first_s.append(time.monotonic())
        node.request_stop(signal.Signals(number).name)
        if first_s[-1] - first_s[0] > REPEATED_SIGNAL_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


def _close(node: ProphNode, executor: Any) -> None:
    """Halt and destroy the node; nothing that fails here may keep the rest from being closed."""
    logger = node.get_logger()
    details = node.stop_reason.partition("\n")[2]  # the first line is said on /diagnostics, which logs it too
    if details:
        logger.error(details)
    steps: list[Callable[[], object]] = [
        node.say_goodbye,
        node.leave,
        lambda: time.sleep(0.02),  # let the transport hand the last messages over
        executor.shutdown,
        node.destroy_node,
        rclpy.try_shutdown,
    ]
    for step in steps:
        try:
            step()
        except Exception:
            logger.error(f"while stopping: {traceback.format_exc()}")
