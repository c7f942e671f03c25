"""Who holds the leader while it is calibrated: a person who is asked, or the twin's scripted hand that is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from robot_bridge.cell import CellConfig
from robot_bridge.leader_calibration import CalibrationRefused
from robot_bridge.leader_jig import positive_motion
from robot_bridge.twin.lab_client import OperatorClient
from robot_bridge.ur_kinematics import Kinematics

WIGGLE_RAD = 0.35
WIGGLE_S = 0.5


class Hands(Protocol):
    """What the calibration asks for. Every call returns when the measurement may begin."""

    def place(self, q_6: Sequence[float], what: str) -> None:
        """Put the leader into the jig pose [6] rad, trigger released, and hold it there."""

    def begin_wiggles(self) -> None:
        """Take the leader out of the jig: single joints will be asked for."""

    def wiggle(self, joint: int) -> None:
        """Turn one joint in its positive direction and back; returns at its beginning."""

    def proceed(self) -> None:
        """Called again and again while a wiggle is watched."""

    def trigger(self, *, pulled: bool) -> None:
        """Pull or release the trigger fully."""

    def match(self, q_follower_6: Sequence[float]) -> None:
        """Put the leader into the follower's pose."""


class Person:
    """Asks a person, line by line.

    Args:
        kinematics: of the follower, for the directions.
        say: prints a line.
        wait: returns when the person is ready; None does not ask but gives ``pause_s`` seconds for each step.
        pause_s: see ``wait``.
    """

    def __init__(
        self,
        kinematics: Kinematics,
        say: Callable[[str], None],
        wait: Callable[[str], None] | None,
        pause_s: float = 3.0,
    ) -> None:
        self._kinematics = kinematics
        self._say = say
        self._wait = wait
        self._pause_s = pause_s
        self._jig_q_6: Sequence[float] = ()

    def place(self, q_6: Sequence[float], what: str) -> None:
        self._jig_q_6 = q_6
        self._ready(f"{what}: seat the leader in the jig pose, trigger released, and hold it still")

    def begin_wiggles(self) -> None:
        self._ready(
            "Now take it out of the jig. I shall ask for one joint after the other: turn it about 20 degrees the way I "
            "say, then back, while you hold the others. No key is needed, I watch"
        )

    def wiggle(self, joint: int) -> None:
        self._say(f"  {positive_motion(self._kinematics, self._jig_q_6, joint)}, and back")

    def proceed(self) -> None:
        return

    def trigger(self, *, pulled: bool) -> None:
        self._ready("Pull the trigger as far as it goes and hold it" if pulled else "Release the trigger fully")

    def match(self, q_follower_6: Sequence[float]) -> None:
        degrees = ", ".join(f"{angle:.1f}" for angle in np.degrees(q_follower_6))
        self._ready(
            f"Check: put the leader into the robot's pose ({degrees} degrees; in the jig, if the robot stands in the "
            "jig pose) and hold it still"
        )

    def _ready(self, request: str) -> None:
        if self._wait is not None:
            self._wait(request)
            return
        self._say(f"{request} (in {self._pause_s:.0f} s)" if self._pause_s else request)
        time.sleep(self._pause_s)


class TwinHand:
    """Does on the twin's leader what it is asked, after telling the person who watches.

    Args:
        cell: with a ``twin`` section.
        person: whose words are used; it is asked first when it waits for a key.
    """

    def __init__(self, cell: CellConfig, person: Person) -> None:
        if cell.twin is None:
            raise ValueError(f"cell {cell.name!r} is real hardware: a person holds its leader")
        self._person = person
        self._operator = OperatorClient(cell.robot.host, cell.twin.operator_port)
        self._q_6: list[float] = list(cell.robot.home_rad)
        self._back_s: float | None = None

    def place(self, q_6: Sequence[float], what: str) -> None:
        self._person.place(q_6, what)
        self._q_6 = [float(q) for q in q_6]
        self._move("set_joints", q=self._q_6, opening=1.0)

    def begin_wiggles(self) -> None:
        self._person.begin_wiggles()

    def wiggle(self, joint: int) -> None:
        self._person.wiggle(joint)
        turned = list(self._q_6)
        turned[joint] += WIGGLE_RAD
        self._operator.call("set_joints", q=turned, seconds=WIGGLE_S)
        self._back_s = time.monotonic() + WIGGLE_S

    def proceed(self) -> None:
        if self._back_s is not None and time.monotonic() > self._back_s:
            self._back_s = None
            self._operator.call("set_joints", q=self._q_6, seconds=WIGGLE_S)

    def trigger(self, *, pulled: bool) -> None:
        self._person.trigger(pulled=pulled)
        self._move("set_joints", q=self._q_6, opening=0.0 if pulled else 1.0)

    def match(self, q_follower_6: Sequence[float]) -> None:
        self._person.match(q_follower_6)
        self._move("align")

    def _move(self, op: str, **arguments: object) -> None:
        seconds = float(self._operator.call(op, **arguments)["seconds"])
        deadline_s = time.monotonic() + 5.0 + 3.0 * seconds
        while self._operator.call("status")["busy"]:
            if time.monotonic() > deadline_s:
                raise CalibrationRefused("the twin's hand does not come to rest; look at the lab's log")
            time.sleep(0.02)
