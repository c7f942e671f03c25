"""Parameters with descriptions and ranges; what nobody declared is refused with a hint at the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

# Declared by rclpy itself on every node.
_BUILT_IN = ("use_sim_time", "start_type_description_service")
_BUILT_IN_PREFIX = "qos_overrides."


class ParameterError(ValueError):
    """A parameter the node does not have, or a value it cannot have; the message names the valid ones."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a node.

    ``minimum`` and ``maximum`` bound numbers, ``choices`` bounds strings. Parameters describe the deployment and are
    read-only unless ``changeable``; a changeable one is read again at each use.
    """

    name: str
    default: bool | int | float | str | list[str]
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    changeable: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The ROS descriptor, with the range that rcl enforces on every later change."""
        descriptor = ParameterDescriptor(description=self.description, read_only=not self.changeable)
        if self.choices:
            descriptor.additional_constraints = f"one of {', '.join(self.choices)}"
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, float):
                span = FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
                descriptor.floating_point_range = [span]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum))]
        return descriptor

    def check(self, value: Any) -> Any:
        """The value in the parameter's type.

        Raises:
            ParameterError: wrong type, outside the range, or not one of the choices.
        """
        if isinstance(self.default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # "wait_s:=3" on a command line is an integer
        if type(value) is not type(self.default):
            raise ParameterError(
                f"parameter {self.name!r} must be of type {type(self.default).__name__}, got {value!r}"
            )
        if self.choices and value not in self.choices:
            raise ParameterError(f"parameter {self.name!r} must be one of {', '.join(self.choices)}, got {value!r}")
        checked: Any = value
        low, high = self.minimum, self.maximum
        if (low is not None and checked < low) or (high is not None and checked > high):
            raise ParameterError(f"parameter {self.name!r} must lie in [{low}, {high}], got {value!r}")
        return checked


def declare_parameters(node: Node, specs: Sequence[ParameterSpec]) -> None:
    """Declare ``specs`` on a node that was built with ``automatically_declare_parameters_from_overrides=True``.

    Raises:
        ParameterError: an override that no spec declares, or a value outside its range.
    """
    given = set(node.list_parameters([], 0).names)
    refuse_unknown(given, [spec.name for spec in specs])
    for spec in specs:
        value: Any = spec.default
        if spec.name in given:
            value = spec.check(node.get_parameter(spec.name).value)
            node.undeclare_parameter(spec.name)  # declared without type or range; declare it properly
        node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)
    by_name = {spec.name: spec for spec in specs}

    def check_change(parameters: list[Parameter]) -> SetParametersResult:
        try:
            for parameter in parameters:
                if parameter.name in by_name:
                    by_name[parameter.name].check(parameter.value)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check_change)


def refuse_unknown(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise ParameterError for the first of ``given`` that is neither ``known`` nor rclpy's own."""
    for name in sorted(given):
        if name in known or name in _BUILT_IN or name.startswith(_BUILT_IN_PREFIX):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParameterError(f"unknown parameter {name!r}, this node has {', '.join(sorted(known))}{hint}")
