"""The doctor at the cell: is every device of a cell file where it says, and may we use it?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from prophrl_nodes.studies.doctor_robot import examine_gripper, examine_robot
from prophrl_nodes.studies.finding import Finding
from robot_bridge.cell import CellConfig, CellError, TwinConfig
from robot_bridge.cell_files import open_cell
from robot_bridge.twin.lab_client import LabClient, LabError
from robot_bridge.twin.port_check import busy_ports

UR_PORTS = (29999, 30001, 30002, 30003, 30004)
CALIBRATION_AGE_DAYS = 30.0


def examine_cell(cell: str, host: str) -> Iterator[Finding]:
    """Check the devices of a cell; a twin that is not running is no fault, but its ports must be free."""
    try:
        config = open_cell(cell, host)
    except CellError as error:
        yield Finding("cell", "error", str(error), "correct the cell file, or pass --cell")
        return
    yield Finding("cell", "ok", f"{config.name}: {config.robot.model} at {config.robot.host}")
    if config.twin is not None:
        yield _lab(config, config.twin)
        return
    yield from examine_robot(config)
    yield examine_gripper(config)
    yield _leader(config)
    yield _camera(config)
    yield _calibration(config)


def _lab(config: CellConfig, twin: TwinConfig) -> Finding:
    host = config.robot.host
    ports = [*UR_PORTS, config.gripper.port, twin.lab_port, twin.operator_port]
    try:
        busy = busy_ports((host, port) for port in ports)
    except OSError as error:
        return Finding("lab", "error", str(error), "pass a loopback address with --host (127.x.y.z)")
    if not busy:
        return Finding("lab", "ok", f"the twin's ports on {host} are free; prophrl twin up starts the lab")
    try:
        status = LabClient(host, twin.lab_port, timeout_s=2.0).status()
    except LabError:
        pass  # somebody else sits on the ports, or a lab that hangs: the finding below names it
    else:
        return Finding("lab", "ok", f"a lab is running on {host}, {status.get('robot_mode', 'mode unknown')}")
    action = "end that process, or give the lab another address: --host 127.0.0.2"
    return Finding("lab", "error", f"ports of the twin are taken: {'; '.join(busy)}", action)


def _leader(config: CellConfig) -> Finding:
    port = Path(config.leader.port)
    if not port.exists():
        found = ", ".join(str(p) for p in sorted(Path("/dev/serial/by-id").glob("*"))) or "none"
        return Finding("leader", "error", f"no leader at {port}; serial devices here: {found}", "correct leader.port")
    if not os.access(port, os.R_OK | os.W_OK):
        action = "sudo usermod -aG dialout $USER, then log in again"
        return Finding("leader", "error", f"{port} may not be read by this user", action)
    return Finding("leader", "ok", f"leader at {port}")


def _camera(config: CellConfig) -> Finding:
    """Open the camera through our driver and take a picture, in a process of its own."""
    script = (
        "import json, sys\n"
        "from robot_bridge.cell import CameraConfig\n"
        "from robot_bridge.d455 import CameraError, D455\n"
        "camera = D455(CameraConfig(**json.loads(sys.argv[1])))\n"
        "try:\n"
        "    info = camera.start()\n"
        "    camera.wait(5.0)\n"
        "    print(json.dumps([info.name, info.serial, info.firmware, info.usb]))\n"
        "except CameraError as error:\n"
        "    sys.exit(str(error))\n"
        "finally:\n"
        "    camera.stop()\n"
    )
    command = [sys.executable, "-c", script, json.dumps(asdict(config.camera))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=False)
    if done.returncode != 0:
        message = (done.stderr.strip().splitlines() or ["the camera process died"])[-1]
        return Finding("camera", "error", message, "stop other programs that use the camera, then ask again")
    name, serial, firmware, usb = json.loads(done.stdout)
    size = f"{config.camera.width}x{config.camera.height}"
    message = f"{name} {serial}, firmware {firmware or 'unknown'}, delivers {size}"
    if usb and not usb.startswith("3"):
        return Finding("camera", "error", f"{message}, but on USB {usb}", "use a USB 3 port and cable")
    return Finding("camera", "ok", message)


def _calibration(config: CellConfig) -> Finding:
    file = Path(config.camera.calibration_file).expanduser()
    if not config.camera.calibration_file:
        action = "calibrate the camera and name the file in camera.calibration_file"
        return Finding("calibration", "warning", "the cell file names no camera calibration", action)
    if not file.is_file():
        return Finding("calibration", "error", f"no calibration at {file}", "calibrate, or correct the cell file")
    days = (time.time() - file.stat().st_mtime) / 86400.0
    if days > CALIBRATION_AGE_DAYS:
        action = "check it against the board, or calibrate again"
        return Finding("calibration", "warning", f"{file.name} is {days:.0f} days old", action)
    return Finding("calibration", "ok", f"{file.name}, {days:.0f} days old")
