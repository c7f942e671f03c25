"""The digital lab by itself: emulated robot, gripper, leader and camera that the real drivers connect to.

  prophrl twin up                                   run it until Ctrl-C
  prophrl twin status                               is it up, does it keep real time?
  prophrl twin up --camera-seed 7                   with a camera that nobody has calibrated yet
  prophrl twin reset pull_tissue --seed 3           lay the table anew
  prophrl twin reset calibration --board table      bring the calibration board
  prophrl twin nudge 0.005 0 0                      bump the camera, 5 mm to its right
  prophrl twin fault                                list the faults
  prophrl twin fault rtde_drop 0.2                  break something
  prophrl twin fault --clear                        and mend it

A second lab needs a second address: --host 127.0.0.2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
from typing import Any

from prophrl_nodes.cli.output import print_json, table


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{up,status,reset,nudge,fault}")
    up = verbs.add_parser("up", help="start the lab and keep it running until Ctrl-C")
    up.add_argument("--restart", action="store_true", help="start leader and camera again when they die")
    up.add_argument("--scene", default="", help="scene at the start (default: the cell file's)")
    up.add_argument("--camera-seed", type=int, default=-1, help="secret place of the camera (0: the nominal place)")
    up.add_argument("--camera-mount", default="", choices=("fixed", "tool"), help="where the camera is")
    up.add_argument("--camera-profile", default="", metavar="WxH@HZ", help="size and rate of the camera, as 848x480@6")
    status = verbs.add_parser("status", help="what the lab says about itself")
    status.add_argument("--json", action="store_true", help="print JSON")
    reset = verbs.add_parser("reset", help="lay out a task's objects")
    reset.add_argument("task", nargs="?", default=None, help="task (default: the present one)")
    reset.add_argument("--seed", type=int, default=None, help="placement by seed (default: a random one)")
    reset.add_argument("--placement", default=None, metavar="JSON", help="exact placement, as stored with episodes")
    reset.add_argument("--board", choices=("tool", "table"), help="where the board is in the scene calibration")
    nudge = verbs.add_parser("nudge", help="move the camera from its place, as somebody bumping into it would")
    nudge.add_argument(
        "move", nargs="*", type=float, metavar="X Y Z", help="metres to the image's right, down and forward"
    )
    nudge.add_argument(
        "--rotate", nargs=3, type=float, default=(0.0, 0.0, 0.0), metavar=("RX", "RY", "RZ"), help="rotation in degrees"
    )
    nudge.add_argument("--back", action="store_true", help="put it back")
    fault = verbs.add_parser("fault", help="turn a fault on or off; without a name list them")
    fault.add_argument("name", nargs="?", help="fault to set")
    fault.add_argument("value", nargs="?", help="a number, true or false (default: true)")
    fault.add_argument("--clear", action="store_true", help="turn all faults off")
    fault.add_argument("--json", action="store_true", help="print JSON")
    for verb in (up, status, reset, nudge, fault):
        verb.add_argument("--cell", default="twin", help="twin cell, by name or path (default: twin)")
        verb.add_argument("--host", default="127.0.0.1", help="its loopback address (default: 127.0.0.1)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl twin``."""
    verbs = {"up": _up, "status": _status, "reset": _reset, "nudge": _nudge, "fault": _fault}
    return verbs[options.verb](options)


def _up(options: argparse.Namespace) -> int:
    from robot_bridge.cell_overrides import twin_overrides
    from robot_bridge.twin.lab import Lab

    for number in (signal.SIGINT, signal.SIGTERM):  # also when a shell started us in the background, ignoring Ctrl-C
        signal.signal(number, signal.default_int_handler)
    changed = twin_overrides(scene=options.scene, camera_seed=options.camera_seed, camera_mount=options.camera_mount)
    profile = options.camera_profile
    with Lab(
        options.cell, options.host, restart=options.restart, report=print, camera_profile=profile, overrides=changed
    ) as lab:
        print(f"the lab is up at {options.host}, its logs are in {lab.directory / 'log'}; Ctrl-C ends it", flush=True)
        try:
            while True:
                lab.check()
                time.sleep(0.2)
        except KeyboardInterrupt:
            print("stopping the lab")
    return 0


def _status(options: argparse.Namespace) -> int:
    status = _client(options).status()
    if options.json:
        print_json(status)
        return 0
    for key, value in status.items():
        print(f"{key:<22}{value}")
    return 0


def _reset(options: argparse.Namespace) -> int:
    import numpy as np

    from prophrl_nodes.cli.tasks import check_tasks
    from robot_bridge.twin.tasks import CALIBRATION, CALIBRATION_TABLE, sample_placement

    client = _client(options)
    task = options.task or str(client.truth()["task"])
    if task in (CALIBRATION, CALIBRATION_TABLE):
        reply = client.reset_scene(task, {"board": options.board} if options.board else None)
        print(f"the calibration board is on the {reply['placement']['board']}")
        return 0
    check_tasks([task])
    placement: Any = json.loads(options.placement) if options.placement else None
    if placement is None and options.seed is not None:
        placement = sample_placement(task, np.random.default_rng(options.seed)).to_json()
    client.reset_scene(task, placement)
    print(f"the table is laid for {task}")
    return 0


def _nudge(options: argparse.Namespace) -> int:
    from math import radians

    move = [0.0, 0.0, 0.0] if options.back else options.move
    if len(move) != 3:
        raise TwinUsageError(f"nudge takes X Y Z in metres, or --back, got {len(move)} numbers")
    turn = [0.0 if options.back else radians(degrees) for degrees in options.rotate]
    _client(options).nudge_camera([*move, *turn])
    print("the camera is back in its place" if options.back else "the camera was moved; prophrl twin nudge --back")
    return 0


def _fault(options: argparse.Namespace) -> int:
    from robot_bridge.twin.camera_place import NUDGE
    from robot_bridge.twin.faults import Faults

    directory = _twin(options).directory
    if options.clear:
        Faults(directory).clear()
        _apply_now(options)
        print("all faults are off")
    elif options.name is None:
        described = Faults(directory).describe()
        if options.json:
            print_json(described)
        else:
            rows = [[str(d[k]) for k in ("name", "wire", "kind", "value", "description")] for d in described]
            print(table([["fault", "wire", "takes", "now", "what it does"], *rows]))
    else:
        if options.name == NUDGE:
            raise TwinUsageError("the camera is moved with prophrl twin nudge X Y Z")
        Faults(directory).set(options.name, _value(options.value))
        _apply_now(options)
        print(f"{options.name} is {options.value or 'true'}")
    return 0


def _apply_now(options: argparse.Namespace) -> None:
    """The controller looks at the switches a few times a second, and after each request: make one."""
    from robot_bridge.twin.lab_client import LabError

    with contextlib.suppress(LabError):  # no controller: the other devices read the file by themselves
        _client(options).call("faults")


def _value(text: str | None) -> float | bool:
    if text is None or text.lower() in ("true", "on"):
        return True
    if text.lower() in ("false", "off"):
        return False
    try:
        return float(text)
    except ValueError as error:
        raise TwinUsageError(f"a fault's value is a number, true or false, got {text!r}") from error


class TwinUsageError(ValueError):
    """A value on the command line that cannot be used."""


def _twin(options: argparse.Namespace) -> Any:
    from robot_bridge.cell_files import open_cell

    twin = open_cell(options.cell, options.host).twin
    if twin is None:
        raise TwinUsageError(f"cell {options.cell!r} is real hardware: it has no digital lab; use --cell twin")
    return twin


def _client(options: argparse.Namespace) -> Any:
    from robot_bridge.twin.lab_client import LabClient

    return LabClient(options.host, _twin(options).lab_port)
