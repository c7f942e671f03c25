"""Reads YAML launch files: the part of ROS's own YAML front end that our files use, no more and no other.

Keys, value types and their checks are those of ``launch_yaml``, ``launch`` and ``launch_ros``, so a file accepted here
runs under ``ros2 launch``. What is not supported here is an error that names what is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prophrl_nodes.launch_files.errors import LaunchError, did_you_mean
from prophrl_nodes.launch_files.substitutions import Template, parse

_CONDITIONS = ("if", "unless")
_PROCESS = ("env", "output", "respawn", "respawn_delay", "respawn_max_retries", "on_exit", "cwd")
_TIMEOUTS = ("sigterm_timeout", "sigkill_timeout")
KEYS: dict[str, tuple[str, ...]] = {
    "arg": ("name", "default", "description", "choice", *_CONDITIONS),
    "let": ("name", "value", *_CONDITIONS),
    "set_env": ("name", "value", *_CONDITIONS),
    "unset_env": ("name", *_CONDITIONS),
    "group": ("scoped", "children", *_CONDITIONS),
    "include": ("file", "arg", *_CONDITIONS),
    "push_ros_namespace": ("namespace", *_CONDITIONS),
    "push-ros-namespace": ("namespace", *_CONDITIONS),
    "node": (
        *("pkg", "exec", "name", "namespace", "exec_name", "args", "ros_args", "param", "remap"),
        *(*_PROCESS, *_TIMEOUTS, *_CONDITIONS),
    ),
    "executable": ("cmd", "name", *_PROCESS, *_TIMEOUTS, *_CONDITIONS),
    "log": ("message", *_CONDITIONS),
}
_REQUIRED = {
    "arg": ("name",),
    "let": ("name", "value"),
    "set_env": ("name", "value"),
    "unset_env": ("name",),
    "include": ("file",),
    "push_ros_namespace": ("namespace",),
    "push-ros-namespace": ("namespace",),
    "node": ("pkg", "exec"),
    "executable": ("cmd",),
    "log": ("message",),
}
_OUTPUTS = ("screen", "log", "both", "own_log", "full")


@dataclass(frozen=True)
class Action:
    """One entry of a launch file: its kind, its checked keys, and for groups the entries within."""

    kind: str
    where: str
    values: Mapping[str, Any]
    children: tuple[Action, ...] = ()

    def text(self, key: str) -> Template | None:
        """A string value, parsed; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise LaunchError(f"{self.where}: {key} must be a string, got {value!r}; put it in quotes")
        try:
            return parse(value)
        except LaunchError as error:
            raise LaunchError(f"{self.where}: {key}: {error}") from error


@dataclass(frozen=True)
class LaunchFile:
    """A checked launch file."""

    path: Path
    actions: tuple[Action, ...] = field(default_factory=tuple)


def read_launch_file(path: Path) -> LaunchFile:
    """Read and check a launch file, without evaluating anything.

    Raises:
        LaunchError: not readable, not YAML, unknown or missing keys, wrong types; names file and element.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise LaunchError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(document, Mapping) or list(document) != ["launch"]:
        raise LaunchError(f"{path}: expected the single top-level key 'launch' with a list of actions")
    return LaunchFile(path, _actions(document["launch"], path.name))


def _actions(entries: Any, where: str) -> tuple[Action, ...]:
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise LaunchError(f"{where}: expected a list of actions ({', '.join(KEYS)}), got {entries!r}")
    return tuple(_action(entry, f"{where}[{i}]") for i, entry in enumerate(entries))


def _action(entry: Any, where: str) -> Action:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise LaunchError(f"{where}: each list entry is one action, as '- node: {{...}}'; got {entry!r}")
    kind, body = next(iter(entry.items()))
    if kind not in KEYS:
        hint = did_you_mean(str(kind), KEYS)
        raise LaunchError(f"{where}: unknown action {kind!r}; known are {', '.join(KEYS)}{hint}")
    where = f"{where}.{kind}"
    if kind == "group" and isinstance(body, Sequence) and not isinstance(body, str):
        body = {"children": body}
    values = _keys(body, KEYS[kind], where)
    for key in _REQUIRED.get(kind, ()):
        if key not in values:
            raise LaunchError(f"{where}: key {key!r} is missing")
    if "if" in values and "unless" in values:
        raise LaunchError(f"{where}: 'if' and 'unless' exclude each other; keep one")
    children = _actions(values.get("children"), where) if kind == "group" else ()
    action = Action(kind, where, values, children)
    _check_values(action)
    return action


def _keys(body: Any, known: Sequence[str], where: str) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise LaunchError(f"{where}: expected a mapping with the keys {', '.join(known)}, got {body!r}")
    for key in body:
        if key not in known:
            raise LaunchError(f"{where}: unknown key {key!r}; known are {', '.join(known)}{did_you_mean(key, known)}")
    return body


def _check_values(action: Action) -> None:
    """The types ``launch_yaml`` insists on; YAML turns an unquoted true or 5 into something else than a string."""
    values, where = action.values, action.where
    for key in values:
        if key in ("scoped",):
            _expect(isinstance(values[key], bool), where, key, "true or false", values[key])
        elif key in ("respawn_delay", *_TIMEOUTS):
            fits = isinstance(values[key], float) and values[key] >= 0.0
            _expect(fits, where, key, "a number with a decimal point, not negative", values[key])
        elif key == "respawn_max_retries":
            fits = isinstance(values[key], int) and not isinstance(values[key], bool)
            _expect(fits, where, key, "a whole number", values[key])
        elif key not in ("children", "choice", "env", "remap", "param", "arg"):
            action.text(key)
    _expect(values.get("on_exit", "shutdown") == "shutdown", where, "on_exit", "shutdown", values.get("on_exit"))
    output = values.get("output", "screen")
    _expect("$(" in output or output in _OUTPUTS, where, "output", f"one of {', '.join(_OUTPUTS)}", output)
    for key, known in (("env", ("name", "value")), ("remap", ("from", "to")), ("choice", ("value",))):
        for item in _items(action, key):
            _strings(item, known, f"{where}.{key}")
    if action.kind == "include":
        for item in _items(action, "arg"):
            _strings(item, ("name", "value"), f"{where}.arg")
    for item in _items(action, "param"):
        _check_param(item, f"{where}.param")


def _check_param(item: Any, where: str) -> None:
    item = _keys(item, ("name", "value", "type", "param", "from", "allow_substs"), where)
    if "from" in item:
        _expect(not {"name", "value", "param", "type"} & set(item), where, "from", "alone", dict(item))
        _expect(not item.get("allow_substs"), where, "allow_substs", "false (write the values out)", True)
        return
    _expect("name" in item, where, "name", "given (or 'from')", None)
    _expect(("value" in item) != ("param" in item), where, "value", "given, or nested 'param'", None)
    _expect(item.get("type", "str") in ("str", "int", "float", "bool"), where, "type", "str, int, float or bool", item)
    for nested in item.get("param", []):
        _check_param(nested, f"{where}.param")


def _items(action: Action, key: str) -> Sequence[Any]:
    if action.kind == "arg" and key == "arg":
        return ()
    items = action.values.get(key, ())
    if isinstance(items, Mapping | str) or not isinstance(items, Sequence):
        raise LaunchError(f"{action.where}: {key} must be a list of mappings, got {items!r}")
    return items


def _strings(item: Any, known: tuple[str, ...], where: str) -> None:
    _keys(item, known, where)
    for key in known:
        _expect(isinstance(item.get(key), str), where, key, "a string (put it in quotes)", item.get(key))


def _expect(fits: bool, where: str, key: str, expected: str, value: Any) -> None:
    if not fits:
        raise LaunchError(f"{where}: {key} must be {expected}, got {value!r}")
