"""Everything a UR controller shows over RTDE, in attributes named as RTDE names them, and its input/output board."""

from __future__ import annotations

from typing import Any

from robot_bridge.arm_types import RobotMode, RuntimeState, SafetyMode
from robot_bridge.twin.rtde_fields import REGISTERS

PERIOD_S = 0.002


class ControllerState:
    """Plain data; the controller writes it once a frame, RTDE packs it, scripts read and write the registers.

    Joint vectors are radians, rad/s, rad/s^2, A, Nm; TCP poses metres and rotation vectors in ``base``; forces N, Nm.
    """

    def __init__(self) -> None:
        zeros = [0.0] * 6
        self.timestamp = 0.0
        self.target_q: list[float] = list(zeros)
        self.target_qd: list[float] = list(zeros)
        self.target_qdd: list[float] = list(zeros)
        self.actual_q: list[float] = list(zeros)
        self.actual_qd: list[float] = list(zeros)
        self.actual_TCP_pose: list[float] = list(zeros)
        self.actual_TCP_speed: list[float] = list(zeros)
        self.actual_TCP_force: list[float] = list(zeros)
        self.target_TCP_pose: list[float] = list(zeros)
        self.target_TCP_speed: list[float] = list(zeros)
        self.ft_raw_wrench: list[float] = list(zeros)
        # Electrical quantities have no model behind them: constants of a robot at rest.
        self.target_current = self.actual_current = self.joint_control_output = tuple(zeros)
        self.target_moment = tuple(zeros)
        self.joint_temperatures = (30.0,) * 6
        self.actual_joint_voltage = (48.0,) * 6
        self.actual_tool_accelerometer = (0.0, 0.0, 9.81)
        self.actual_momentum = 0.0
        self.actual_main_voltage = 48.0
        self.actual_robot_voltage = 48.0
        self.actual_robot_current = 1.0
        self.actual_execution_time = 0.0
        self.robot_mode: int = RobotMode.POWER_OFF
        self.safety_mode: int = SafetyMode.NORMAL
        self.runtime_state: int = RuntimeState.STOPPED
        self.robot_status_bits = 0
        self.safety_status_bits = 1
        self.joint_mode: tuple[int, ...] = (255,) * 6
        self.speed_scaling = 1.0
        self.target_speed_fraction = 1.0
        self.actual_digital_input_bits = 0
        self.actual_digital_output_bits = 0
        self.standard_analog_input0 = self.standard_analog_input1 = 0.0
        self.standard_analog_output0 = self.standard_analog_output1 = 0.0
        self.payload = 0.0
        self.payload_cog: list[float] = [0.0, 0.0, 0.0]
        self.payload_inertia: list[float] = list(zeros)
        self.input_int_registers = [0] * REGISTERS
        self.input_double_registers = [0.0] * REGISTERS
        self.output_int_registers = [0] * REGISTERS
        self.output_double_registers = [0.0] * REGISTERS
        self.input_bit_registers = [False] * 128
        self.output_bit_registers = [False] * 128
        self.external_force_torque: tuple[float, ...] = tuple(zeros)
        self.watchdog_variable = ""
        self.watchdog_period_s = 0.0
        self.watchdog_action = "stop"
        self.watchdog_fed_s = 0.0

    def arm_watchdog(self, variable: str, min_frequency_hz: float, action: str) -> None:
        """From now on ``variable`` must be written at least at this rate; 0 Hz switches the watchdog off."""
        self.watchdog_variable = variable if min_frequency_hz > 0.0 else ""
        self.watchdog_period_s = 1.0 / min_frequency_hz if min_frequency_hz > 0.0 else 0.0
        self.watchdog_action = action
        self.watchdog_fed_s = self.timestamp

    def watchdog_starved(self) -> bool:
        """The watched variable has not been written in time."""
        # One frame of grace: inputs are stamped with the frame before the one that reads them.
        late_s = self.timestamp - self.watchdog_fed_s - self.watchdog_period_s
        return bool(self.watchdog_variable) and late_s > PERIOD_S

    def apply_io(self, values: dict[str, Any]) -> None:
        """Act on inputs that are no registers: outputs of the control box, speed slider, external force."""
        for group, shift in (("standard", 0), ("configurable", 8), ("tool", 16)):
            mask = int(values.get(f"{group}_digital_output_mask", 0)) << shift
            bits = int(values.get(f"{group}_digital_output", 0)) << shift
            self.actual_digital_output_bits = (self.actual_digital_output_bits & ~mask) | (bits & mask)
        mask = int(values.get("standard_analog_output_mask", 0))
        if mask & 1:
            self.standard_analog_output0 = float(values["standard_analog_output_0"])
        if mask & 2:
            self.standard_analog_output1 = float(values["standard_analog_output_1"])
        if values.get("speed_slider_mask"):
            self.target_speed_fraction = min(max(float(values["speed_slider_fraction"]), 0.0), 1.0)
        if "external_force_torque" in values:
            self.external_force_torque = tuple(values["external_force_torque"])

    def set_digital_output(self, bit: int, on: bool) -> None:
        """Set one digital output: 0-7 standard, 8-15 configurable, 16-17 tool."""
        mask = 1 << bit
        self.actual_digital_output_bits = (self.actual_digital_output_bits & ~mask) | (mask if on else 0)
