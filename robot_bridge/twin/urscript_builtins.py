"""The script functions of the controller: what URScript programs can call.

A function missing here makes a program fail at load ("function is not defined"), as an unknown name does on the real
controller. Functions that this twin knows but does not model (force mode, external force sensor) end the program with
a message that says so, instead of pretending.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from robot_bridge.twin.urscript import Frames, ScriptError
from robot_bridge.twin.urscript_values import (
    List,
    Pose,
    interpolate_pose,
    norm,
    point_dist,
    pose_add,
    pose_dist,
    pose_inv,
    pose_of_rows,
    pose_sub,
    pose_trans,
    rotvec2rpy,
    rpy2rotvec,
    to_text,
)
from robot_bridge.ur_kinematics import JOINT_POSITION_LIMITS_RAD, Unreachable

if TYPE_CHECKING:
    from robot_bridge.twin.ur_controller import UrController

PERIOD_S = 0.002
BLOCKING = frozenset(
    ("sync", "sleep", "movej", "movel", "movep", "servoj", "servoc", "speedj", "speedl", "stopj", "stopl", "popup")
)
"""Functions that take robot time; compiled programs call them with ``yield from``."""
NOT_MODELLED = (
    "force_mode",
    "ft_rtde_input_enable",
    "enable_external_ft_sensor",
    "movec",
    "set_conveyor_tick_count",
    "track_conveyor_linear",
    "socket_open",
)
CONTACT_FORCE_N = 15.0
"""tool_contact reports a contact above this force against the given direction."""

Functions = dict[str, Callable[..., Any]]


def script_functions(controller: UrController) -> Functions:
    """All script functions by name, bound to one controller."""
    return (
        _maths()
        | _motion(controller)
        | _robot(controller)
        | _tool(controller)
        | _registers(controller)
        | _program(controller)
        | {name: _not_modelled(name) for name in NOT_MODELLED}
    )


def _not_modelled(name: str) -> Callable[..., Any]:
    def function(*arguments: Any, **named: Any) -> None:
        raise ScriptError(f"{name}() is not modelled by this twin")

    return function


def _maths() -> Functions:
    return {
        "abs": abs,
        "acos": math.acos,
        "asin": math.asin,
        "atan": math.atan,
        "atan2": math.atan2,
        "ceil": math.ceil,
        "cos": math.cos,
        "d2r": math.radians,
        "floor": math.floor,
        "get_list_length": len,
        "interpolate_pose": interpolate_pose,
        "length": len,
        "log": lambda base, x: math.log(x, base),
        "norm": norm,
        "normalize": lambda v: List(x / norm(v) for x in v),
        "point_dist": point_dist,
        "pose_add": pose_add,
        "pose_dist": pose_dist,
        "pose_inv": pose_inv,
        "pose_sub": pose_sub,
        "pose_trans": pose_trans,
        "pow": pow,
        "r2d": math.degrees,
        "round": lambda x, digits=0: round(x, digits) if digits else round(x),
        "rotvec2rpy": rotvec2rpy,
        "rpy2rotvec": rpy2rotvec,
        "sin": math.sin,
        "size": len,
        "sqrt": math.sqrt,
        "str_cat": lambda a, b: to_text(a) + to_text(b),
        "str_len": len,
        "tan": math.tan,
        "to_num": float,
        "to_str": to_text,
        "make_list": lambda length, value, capacity=0: List(value for _ in range(length)),
    }


def _motion(controller: UrController) -> Functions:
    arm = controller.arm

    def sync() -> Frames:
        yield

    def sleep(t: float) -> Frames:
        for _ in range(max(1, round(t / PERIOD_S))):
            yield

    def inverse_kin(
        x: Sequence[float],
        qnear: Sequence[float] | None = None,
        maxPositionError: float = 1e-10,
        maxOrientationError: float = 1e-10,
        tcp: str = "active_tcp",
    ) -> List:
        try:
            return List(arm.inverse(x, qnear))
        except Unreachable as error:
            raise ScriptError(f"get_inverse_kin: {error}") from error

    def has_solution(x: Sequence[float], *arguments: Any, **named: Any) -> bool:
        try:
            inverse_kin(x, *arguments, **named)
        except ScriptError:
            return False
        return True

    def forward_kin(q: Sequence[float] | None = None, tcp: Sequence[float] | None = None) -> Pose:
        joints = controller.state.actual_q if q is None else q
        if tcp is None:
            return pose_of_rows(arm.tcp_rows(joints))
        return pose_trans(pose_of_rows(arm.flange_rows(joints)), tcp)

    def within_limits(target: Sequence[float]) -> bool:
        if isinstance(target, Pose):
            return has_solution(target)
        return all(abs(value) <= limit for value, limit in zip(target, JOINT_POSITION_LIMITS_RAD, strict=True))

    return {
        "sync": sync,
        "sleep": sleep,
        "movej": arm.movej,
        "movel": arm.movel,
        "movep": arm.movep,
        "servoj": arm.servoj,
        "servoc": arm.servoc,
        "speedj": arm.speedj,
        "speedl": arm.speedl,
        "stopj": arm.stopj,
        "stopl": arm.stopl,
        "get_inverse_kin": inverse_kin,
        "get_inverse_kin_has_solution": has_solution,
        "get_forward_kin": forward_kin,
        "is_within_safety_limits": within_limits,
        "is_steady": lambda: controller.steady_s >= 0.5,
        "get_target_waypoint": lambda: Pose(arm.waypoint),
        "get_steptime": lambda: PERIOD_S,
    }


def _robot(controller: UrController) -> Functions:
    state, arm = controller.state, controller.arm
    return {
        "get_actual_joint_positions": lambda: List(state.actual_q),
        "get_actual_joint_speeds": lambda: List(state.actual_qd),
        "get_target_joint_positions": lambda: List(arm.q),
        "get_target_joint_speeds": lambda: List(arm.qd),
        "get_actual_tcp_pose": lambda: Pose(state.actual_TCP_pose),
        "get_actual_tcp_speed": lambda: List(state.actual_TCP_speed),
        "get_target_tcp_pose": lambda: Pose(state.target_TCP_pose),
        "get_target_tcp_speed": lambda: List(state.target_TCP_speed),
        "get_actual_tool_flange_pose": lambda: pose_of_rows(arm.flange_rows(state.actual_q)),
        "get_tcp_force": lambda: List(state.actual_TCP_force),
        "force": lambda: math.hypot(*state.actual_TCP_force[:3]),
        "get_joint_torques": lambda: List(state.target_moment),
        "get_actual_joint_positions_history": lambda steps=0: List(controller.joints_before(int(steps))),
        "get_joint_temp": lambda j: state.joint_temperatures[j],
        "get_controller_temp": lambda: 30.0,
        "protective_stop": lambda: controller.modes.protective_stop("requested by the program"),
        "powerdown": lambda: controller.modes.power_off(),
        # Nobody pushes this arm by hand: in freedrive and teach mode it stands where it is.
        "teach_mode": lambda: None,
        "end_teach_mode": lambda: None,
        "freedrive_mode": lambda freeAxes=None, feature=None: None,
        "end_freedrive_mode": lambda: None,
        "get_freedrive_status": lambda: 0,
        "end_force_mode": lambda: None,
        "force_mode_set_damping": lambda damping: None,
        "force_mode_set_gain_scaling": lambda scaling: None,
    }


def _tool(controller: UrController) -> Functions:
    state, arm = controller.state, controller.arm

    def set_payload(
        mass: float, cog: Sequence[float] | None = None, inertia: Sequence[float] | None = None, time: float = 0.0
    ) -> None:
        if not 0.0 <= mass <= 35.0:
            raise ScriptError(f"payload must lie in 0..35 kg, got {mass}")
        state.payload = float(mass)
        if cog is not None:
            state.payload_cog = [float(value) for value in cog]
        if inertia is not None:
            state.payload_inertia = [float(value) for value in inertia]

    def tool_contact(direction: Sequence[float] | None = None) -> int:
        force = state.actual_TCP_force
        towards = [0.0] * 6 if direction is None else list(direction)
        size = math.hypot(*towards[:3])
        against = -sum(f * d for f, d in zip(force[:3], towards[:3], strict=True)) / size if size else norm(force[:3])
        return controller.count_contact(against > CONTACT_FORCE_N)

    return {
        "set_tcp": lambda pose, name="": arm.set_tcp(pose),
        "get_tcp_offset": lambda: Pose(arm.tcp),
        "set_payload": set_payload,
        "set_payload_mass": set_payload,
        "set_target_payload": set_payload,
        "set_payload_cog": lambda cog: set_payload(state.payload, cog),
        "get_target_payload": lambda: state.payload,
        "get_target_payload_cog": lambda: List(state.payload_cog),
        "get_target_payload_inertia": lambda: List(state.payload_inertia),
        "set_gravity": lambda direction: None,
        "zero_ftsensor": controller.zero_force,
        "tool_contact": tool_contact,
        "set_tool_voltage": lambda voltage: None,
        "set_tool_communication": lambda *arguments, **named: None,
    }


def _registers(controller: UrController) -> Functions:
    state = controller.state

    def write_int(index: int, value: float) -> None:
        number = int(value)
        # The register holds 32 bits; larger numbers wrap, as in the controller.
        state.output_int_registers[index] = (number + 0x80000000) % 0x100000000 - 0x80000000

    def write_double(index: int, value: float) -> None:
        state.output_double_registers[index] = float(value)

    def write_bit(index: int, value: bool) -> None:
        state.output_bit_registers[index] = bool(value)

    def digital_out(bit: int, value: bool) -> None:
        state.set_digital_output(bit, bool(value))

    functions: Functions = {
        "read_input_integer_register": lambda index: state.input_int_registers[index],
        "read_input_float_register": lambda index: state.input_double_registers[index],
        "read_input_boolean_register": lambda index: state.input_bit_registers[index],
        "read_output_integer_register": lambda index: state.output_int_registers[index],
        "read_output_float_register": lambda index: state.output_double_registers[index],
        "read_output_boolean_register": lambda index: state.output_bit_registers[index],
        "write_output_integer_register": write_int,
        "write_output_float_register": write_double,
        "write_output_boolean_register": write_bit,
        "rtde_set_watchdog": lambda variable, min_frequency, action="pause": state.arm_watchdog(
            variable, min_frequency, action
        ),
        "set_digital_out": digital_out,
        "set_standard_digital_out": digital_out,
        "set_configurable_digital_out": lambda bit, value: digital_out(8 + bit, value),
        "set_tool_digital_out": lambda bit, value: digital_out(16 + bit, value),
        "get_standard_digital_out": lambda bit: bool(state.actual_digital_output_bits >> bit & 1),
        "get_standard_digital_in": lambda bit: bool(state.actual_digital_input_bits >> bit & 1),
    }
    return functions


def _program(controller: UrController) -> Functions:
    def textmsg(first: Any, second: Any = "") -> None:
        controller.interpreter.log.append(to_text(first) + to_text(second))

    def popup(
        text: Any, title: str = "Popup", warning: bool = False, error: bool = False, blocking: bool = False
    ) -> Frames:
        controller.modes.popup = f"{title}: {to_text(text)}"
        while blocking and controller.modes.popup:
            yield

    return {"textmsg": textmsg, "popup": popup}
