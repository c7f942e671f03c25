"""How a leader's seven servos were screwed together: zero, sign and trigger range, kept by servo set.

A servo horn goes on at any of many teeth and never exactly at the encoder's zero, so every leader needs its own
numbers. They are real-valued (the leader is put in a jig pose and measured), not multiples of a quarter turn.
One YAML holds several leaders, named by the serial number of the USB adapter they hang on:

    servo_sets:
      FT7WBEJA:
        joints: [{zero_raw: 2051.3, sign: 1}, ...]      # six, base to wrist 3
        trigger: {open_raw: 2048.0, closed_raw: 2528.0}
        measured: {...}                                 # optional: when and how well, for people

Zeros are meant modulo one turn: after every power-up the servos count from within their first turn.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from robot_bridge.kept_yaml import replace_yaml

COUNTS_PER_RAD = 4096.0 / (2.0 * math.pi)
UR_SIGNS = (1, 1, -1, 1, 1, 1)
"""Direction of each joint servo on a GELLO built for a UR arm."""


class OffsetsError(ValueError):
    """An offsets file that cannot be used; the message names the file, the place and the next action."""


@dataclass(frozen=True)
class JointServo:
    """``zero_raw`` is the encoder count (4096 a turn) at joint angle 0; ``sign`` is +1 or -1."""

    zero_raw: float
    sign: int


@dataclass(frozen=True)
class TriggerServo:
    """Encoder counts of the released (gripper open) and the pulled (gripper closed) trigger."""

    open_raw: float
    closed_raw: float


@dataclass(frozen=True)
class LeaderOffsets:
    """Six joint servos and the trigger of one leader."""

    joints: tuple[JointServo, ...]
    trigger: TriggerServo

    def __post_init__(self) -> None:
        if len(self.joints) != 6 or any(abs(joint.sign) != 1 for joint in self.joints):
            raise OffsetsError(f"a leader has six joint servos with sign 1 or -1, got {self.joints}")
        if abs(self.trigger.open_raw - self.trigger.closed_raw) < 50:
            raise OffsetsError(
                f"trigger range {self.trigger.open_raw} to {self.trigger.closed_raw} is under 50 counts (4 degrees); "
                "measure it again with the trigger fully released and fully pulled"
            )

    def joint_angles(self, raw_6: ArrayLike) -> NDArray[np.float64]:
        """Joint angles [6] in radians of encoder counts [6], on whatever turn the counts are."""
        zero = np.array([joint.zero_raw for joint in self.joints])
        sign = np.array([joint.sign for joint in self.joints])
        angles: NDArray[np.float64] = (np.asarray(raw_6, dtype=np.float64) - zero) * sign / COUNTS_PER_RAD
        return angles

    def opening(self, raw: float) -> float:
        """Gripper opening 0 (closed) to 1 (open) of the trigger's encoder count, on whatever turn it is."""
        span = self.trigger.open_raw - self.trigger.closed_raw
        middle = (self.trigger.open_raw + self.trigger.closed_raw) / 2.0
        raw -= 4096.0 * round((raw - middle) / 4096.0)
        return min(1.0, max(0.0, (raw - self.trigger.closed_raw) / span))

    def shaft_counts(self, q_6: Sequence[float], opening: float) -> list[float]:
        """Encoder counts [7] at given joint angles and trigger opening: the inverse of the two above."""
        counts = [joint.zero_raw + joint.sign * q * COUNTS_PER_RAD for joint, q in zip(self.joints, q_6, strict=True)]
        return [*counts, self.trigger.closed_raw + opening * (self.trigger.open_raw - self.trigger.closed_raw)]


NOMINAL = LeaderOffsets(tuple(JointServo(2048.0, sign) for sign in UR_SIGNS), TriggerServo(2048.0, 2528.0))
"""Every horn on its mark: how the twin's leader is assembled when no offsets file is given."""


def measure(
    raw_6: ArrayLike, jig_q_6: ArrayLike, trigger: TriggerServo, signs: Sequence[int] = UR_SIGNS
) -> LeaderOffsets:
    """Offsets of a leader that stands in a known jig pose.

    Args:
        raw_6: encoder counts [6] read in the jig (average several readings).
        jig_q_6: the joint angles [6] in radians that the jig enforces.
        trigger: the trigger's counts, released and pulled.
        signs: directions of the joint servos.
    """
    raw, q = np.asarray(raw_6, dtype=np.float64), np.asarray(jig_q_6, dtype=np.float64)
    zero = raw - np.asarray(signs) * q * COUNTS_PER_RAD
    return LeaderOffsets(tuple(JointServo(float(z), int(s)) for z, s in zip(zero, signs, strict=True)), trigger)


def load_offsets(path: str | Path, servo_set: str) -> LeaderOffsets:
    """Offsets of one leader from a file.

    Raises:
        OffsetsError: no such file, servo set or key, or a value of the wrong kind.
    """
    path = Path(path).expanduser()
    sets = _read(path)
    if servo_set not in sets:
        near = difflib.get_close_matches(servo_set, sets, n=1)
        raise OffsetsError(
            f"{path} has no servo set {servo_set!r}, it has {sorted(sets) or 'none'}"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + "; put the leader in the jig pose and measure its offsets"
        )
    try:
        entry = sets[servo_set]
        joints = tuple(JointServo(float(j["zero_raw"]), int(j["sign"])) for j in entry["joints"])
        trigger = TriggerServo(float(entry["trigger"]["open_raw"]), float(entry["trigger"]["closed_raw"]))
    except (KeyError, TypeError, ValueError) as error:
        raise OffsetsError(
            f"{path}: servo set {servo_set!r} needs joints (six of zero_raw, sign) and trigger (open_raw, "
            f"closed_raw); reading it gave {type(error).__name__}: {error}"
        ) from error
    return LeaderOffsets(joints, trigger)


def save_offsets(
    path: str | Path, servo_set: str, offsets: LeaderOffsets, *, measured: Mapping[str, Any] | None = None
) -> Path | None:
    """Write one leader's offsets, keeping the others in the file; the file is replaced in one step.

    Args:
        path: the offsets file; created with its folder when missing.
        servo_set: name of the leader, see ``servo_set_name``.
        offsets: what was measured.
        measured: plain values stored beside it (date, noise, checks); nothing in the house reads them back.

    Returns:
        Where the file of before was kept, named after its own date; None when there was none.
    """
    path = Path(path).expanduser()
    sets = _read(path) if path.exists() else {}
    sets[servo_set] = {"joints": [asdict(joint) for joint in offsets.joints], "trigger": asdict(offsets.trigger)}
    if measured is not None:
        sets[servo_set]["measured"] = dict(measured)
    return replace_yaml(path, {"servo_sets": sets})


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise OffsetsError(
            f"no leader offsets at {path}; put the leader in the jig pose and measure them, "
            "or correct leader.offsets_file in the cell file"
        )
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise OffsetsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, Mapping) or not isinstance(raw.get("servo_sets"), Mapping):
        raise OffsetsError(f"{path} must hold the key servo_sets with one entry for each leader, got {raw!r}")
    return dict(raw["servo_sets"])
