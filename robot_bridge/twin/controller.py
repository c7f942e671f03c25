"""The controller process of the twin: one thread, one ``select`` loop, 500 ticks a second.

``python -m robot_bridge.twin.controller --cell config/cells/twin.yaml [--host 127.0.0.2]``

Between two deadlines the loop serves sockets; at a deadline it steps the robot and publishes. Robot time counts
ticks: on an overloaded machine the world slows down, it never jumps. No asyncio (its timers round up to a
millisecond) and no second thread (the interpreter lock would delay ticks by tens of milliseconds).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from robot_bridge.cell import CellConfig, CellError, load_cell
from robot_bridge.cell_overrides import add_override_argument, overrides_of
from robot_bridge.twin.arm_control import PERIOD_S
from robot_bridge.twin.dashboard import PORT as DASHBOARD_PORT
from robot_bridge.twin.dashboard import Dashboard, DashboardConnection
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.json_lines import JsonLinesServer
from robot_bridge.twin.lab_port import LabPort
from robot_bridge.twin.robotiq_server import GripperUnit, RobotiqConnection
from robot_bridge.twin.rtde_server import PORT as RTDE_PORT
from robot_bridge.twin.rtde_server import RtdeServer
from robot_bridge.twin.shared_state import WorldStateWriter
from robot_bridge.twin.tick_clock import TickClock
from robot_bridge.twin.ur_controller import UrController
from robot_bridge.twin.urscript import ProgramSplitter
from robot_bridge.twin.wire import Connection, Listener
from robot_bridge.twin.world import World

SCRIPT_PORTS = (30001, 30002, 30003)
SHARE_EVERY_TICKS = 2
FAULTS_EVERY_TICKS = 25
NICENESS = -10


class ScriptConnection(Connection):
    """A client that uploads programs. The data these ports stream on a real robot is not modelled."""

    def __init__(self, sock: socket.socket, controller: UrController) -> None:
        super().__init__(sock)
        self._controller = controller
        self._splitter = ProgramSplitter()

    def received(self, data: bytes) -> None:
        """Run every complete program."""
        for program in self._splitter.feed(data):
            self._controller.upload(program)


class ControllerProcess:
    """Sockets, robot and world of one cell.

    Raises:
        CellError: the cell has no twin section.
        OSError: a port is taken.
    """

    def __init__(self, cell: CellConfig) -> None:
        if cell.twin is None:
            raise CellError(f"cell {cell.name!r} has no 'twin' section: its controller is a real one")
        twin, host = cell.twin, cell.robot.host
        self._running = True
        self._clock = TickClock(PERIOD_S)
        self._faults = Faults(twin.directory)
        self._faults.clear()  # a restarted lab begins healthy
        self._connections: dict[int, Connection] = {}
        self._grippers: list[RobotiqConnection] = []
        world = World(twin.task, dh_deltas=twin.dh_deltas, seed=twin.seed)
        self.controller = controller = UrController(world)
        self._rtde = RtdeServer(controller.state, self._faults)
        self._unit = GripperUnit(controller, self._faults)
        self._lab = LabPort(controller, twin, self._faults, self._clock, self.stop)
        dashboard = Dashboard(controller)
        self._listeners: dict[int, Listener] = {}
        self._lab_server: JsonLinesServer | None = None
        try:
            self._listen(host, RTDE_PORT, self._rtde.connect)
            self._listen(host, DASHBOARD_PORT, lambda sock: DashboardConnection(sock, dashboard))
            for port in SCRIPT_PORTS:
                self._listen(host, port, lambda sock: ScriptConnection(sock, controller))
            self._listen(cell.gripper.host, cell.gripper.port, self._connect_gripper)
            self._lab_server = JsonLinesServer(host, twin.lab_port, self._lab.handle)
            self._writer = WorldStateWriter(twin.directory)
        except BaseException:
            self._close_sockets()
            raise

    def _listen(self, host: str, port: int, make: Callable[[socket.socket], Connection]) -> None:
        listener = Listener(host, port, make)
        self._listeners[listener.socket.fileno()] = listener

    def _connect_gripper(self, sock: socket.socket) -> RobotiqConnection:
        connection = RobotiqConnection(sock, self._unit, self.controller, self._faults)
        self._grippers.append(connection)
        return connection

    # --- the loop ---

    def stop(self) -> None:
        """End ``run`` after the present tick."""
        self._running = False

    def run(self) -> None:
        """Serve and tick until ``stop``."""
        # Objects made so far live as long as the process; cycles that come later are few and small.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._clock.restart()
        try:
            while self._running:
                self._serve(max(0.0, self._clock.remaining_s()))
                if self._clock.remaining_s() <= 0.0:
                    self._clock.start_tick()
                    self._tick()
        finally:
            gc.enable()
            self._writer.close()
            self._close_sockets()

    def _tick(self) -> None:
        controller = self.controller
        self._unit.frame()
        controller.frame()
        self._rtde.publish(controller.tick)
        for gripper in self._grippers:
            gripper.frame()
        if controller.tick % SHARE_EVERY_TICKS == 0:
            self._share()
        if controller.tick % FAULTS_EVERY_TICKS == 0:
            self._poll_faults()

    def _serve(self, timeout_s: float) -> None:
        """Wait for the deadline or for the first readable socket and handle what came."""
        # A connection that broke while we sent to it must leave before select sees its dead descriptor.
        if any(connection.closed for connection in self._connections.values()):
            self._forget_closed()
        connections, listeners = self._connections, self._listeners
        lab = {sock.fileno(): sock for sock in self._lab_server.sockets()} if self._lab_server else {}
        writers = [fd for fd, connection in connections.items() if connection.outgoing]
        readable, writable, _ = select.select([*listeners, *lab, *connections], writers, (), timeout_s)
        for fd in writable:
            connections[fd].flush()
        for fd in readable:
            if fd in connections:
                connections[fd].read()
            elif fd in listeners:
                accepted = listeners[fd].accept()
                if accepted is not None:
                    connections[accepted.socket.fileno()] = accepted
            elif self._lab_server is not None:
                self._lab_server.serve([lab[fd]])
                # Turned by an operation just answered: act before the next request of anyone is served.
                self._poll_faults()

    def _forget_closed(self) -> None:
        self._connections = {fd: c for fd, c in self._connections.items() if not c.closed}
        self._grippers = [gripper for gripper in self._grippers if not gripper.closed]

    def _share(self) -> None:
        controller, world = self.controller, self.controller.world
        self._writer.write(
            tick=controller.tick,
            stamp_ns=time.time_ns(),
            task=world.task.id,
            scene_revision=controller.scene_revision,
            qpos=world.data.qpos,
            q=controller.state.actual_q,
            qd=controller.state.actual_qd,
            T_base_tcp=world.T_base_tcp,
            gripper_opening=world.gripper_opening,
            gripper_target=controller.gripper_target,
            object_detected=world.gripper_object_detected,
            objects=world.object_poses(),
            robot_mode=int(controller.modes.robot_mode),
            safety_mode=int(controller.modes.safety_mode),
        )

    def _poll_faults(self) -> None:
        faults = self._faults
        if not faults.poll():
            return
        self.controller.remote_control = not faults.on("not_in_remote")
        if faults.strikes("script_error"):
            self.controller.interpreter.fail("injected by the lab")
        if faults.strikes("freeze"):
            time.sleep(faults.value("freeze"))
            self._clock.restart()

    def _close_sockets(self) -> None:
        for connection in self._connections.values():
            connection.close()
        for listener in self._listeners.values():
            listener.close()
        if self._lab_server is not None:
            self._lab_server.close()


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m robot_bridge.twin.controller", description=__doc__)
    parser.add_argument("--cell", required=True, type=Path, help="cell file with a twin section")
    parser.add_argument("--host", default="", help="loopback address that replaces {host} in the cell file")
    add_override_argument(parser)
    options = parser.parse_args(arguments)
    try:
        process = ControllerProcess(load_cell(options.cell, host=options.host, overrides=overrides_of(options)))
    except (ValueError, OSError) as error:
        print(f"controller: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())
    with contextlib.suppress(PermissionError):  # only root may; without it ticks are late more often
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    print("controller ready", flush=True)
    process.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
