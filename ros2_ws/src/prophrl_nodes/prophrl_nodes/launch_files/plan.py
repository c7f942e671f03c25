"""Evaluates a launch file with its arguments into the list of processes to start.

Scoping follows ROS's launch: variables and the environment are one flat scope that includes share with their
includer; a group opens a scope of its own unless it says ``scoped: false``. Everything is evaluated before the first
process starts, so an error in the last line does not leave half a cell running.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prophrl_nodes.launch_files.arguments import check_choice
from prophrl_nodes.launch_files.errors import LaunchError
from prophrl_nodes.launch_files.packages import node_command
from prophrl_nodes.launch_files.parser import Action, LaunchFile, read_launch_file
from prophrl_nodes.launch_files.substitutions import Context, Substitution, Template, is_plain, parse, perform

_NAMESPACE = "ros_namespace"  # kept among the variables, as launch_ros does, so that groups scope it
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPES: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}


@dataclass(frozen=True)
class ProcessSpec:
    """One process to start. Delays and timeouts in seconds; ``required``: its end ends everything."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    cwd: str | None = None
    respawn: bool = False
    respawn_delay_s: float = 0.0
    respawn_max_retries: int = -1
    required: bool = False
    sigterm_timeout_s: float = 5.0
    sigkill_timeout_s: float = 5.0


@dataclass(frozen=True)
class Plan:
    """What a launch file amounts to."""

    processes: tuple[ProcessSpec, ...]
    messages: tuple[str, ...]


def make_plan(file: LaunchFile, arguments: Mapping[str, str], environment: Mapping[str, str] | None = None) -> Plan:
    """Evaluate a launch file.

    Args:
        file: from ``read_launch_file``.
        arguments: ``name:=value`` of the command line.
        environment: that of the processes, before ``set_env``; ``os.environ`` when omitted.

    Raises:
        LaunchError: a value outside its choices, an argument that is missing, anything that cannot be evaluated.
    """
    planner = _Planner(Context(dict(arguments), dict(os.environ if environment is None else environment)))
    planner.run_file(file)
    return Plan(tuple(planner.processes), tuple(planner.messages))


class _Planner:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._depth = 0
        self.processes: list[ProcessSpec] = []
        self.messages: list[str] = []

    def run_file(self, file: LaunchFile) -> None:
        folder, self._context.folder = self._context.folder, file.path.resolve().parent
        self._depth += 1
        if self._depth > 20:
            raise LaunchError(f"{file.path} includes itself, directly or through others")
        for action in file.actions:
            self._run(action)
        self._depth -= 1
        self._context.folder = folder

    def _run(self, action: Action) -> None:
        try:
            if self._applies(action):
                self._HANDLERS[action.kind](self, action)
        except LaunchError as error:
            if str(error).startswith(action.where.split("[")[0]):
                raise
            raise LaunchError(f"{action.where}: {error}") from error

    def _applies(self, action: Action) -> bool:
        for key, wanted in (("if", True), ("unless", False)):
            template = action.text(key)
            if template is not None and self._truth(perform(template, self._context), key) is not wanted:
                return False
        return True

    def _arg(self, action: Action) -> None:
        name = str(action.values["name"])
        if name not in self._context.variables:
            default = action.text("default")
            if default is None:
                described = action.values.get("description", "no description")
                raise LaunchError(f"argument {name!r} ({described}) has no default; pass {name}:=VALUE")
            self._context.variables[name] = perform(default, self._context)
        check_choice(action, self._context.variables[name])

    def _let(self, action: Action) -> None:
        self._context.variables[self._text(action, "name")] = self._text(action, "value")

    def _set_env(self, action: Action) -> None:
        self._context.environment[self._text(action, "name")] = self._text(action, "value")

    def _unset_env(self, action: Action) -> None:
        self._context.environment.pop(self._text(action, "name"), None)

    def _group(self, action: Action) -> None:
        variables, environment = dict(self._context.variables), dict(self._context.environment)
        for child in action.children:
            self._run(child)
        if action.values.get("scoped", True):
            self._context.variables, self._context.environment = variables, environment

    def _include(self, action: Action) -> None:
        path = Path(self._text(action, "file"))
        values = {
            perform(parse(item["name"]), self._context): perform(parse(item["value"]), self._context)
            for item in action.values.get("arg", ())
        }
        file = read_launch_file(path)
        for inner in file.actions:
            name = str(inner.values.get("name"))
            if inner.kind == "arg" and not {"default", "if", "unless"} & set(inner.values) and name not in values:
                raise LaunchError(f"{path.name} requires the argument {name!r}; add it to this include's arg list")
        self._context.variables.update(values)
        self.run_file(file)

    def _push_namespace(self, action: Action) -> None:
        pushed = join_namespaces(self._context.variables.get(_NAMESPACE), self._text(action, "namespace"))
        self._context.variables[_NAMESPACE] = pushed or "/"

    def _log(self, action: Action) -> None:
        self.messages.append(self._text(action, "message"))

    def _node(self, action: Action) -> None:
        package, executable = self._text(action, "pkg"), self._text(action, "exec")
        command = node_command(package, executable) + self._words(action, "args")
        ros_args = self._words(action, "ros_args")
        rules: list[str] = []
        name = self._text(action, "name")
        if name:
            if not _NAME.fullmatch(name):
                raise LaunchError(f"{name!r} is not a node name; use letters, digits and '_'")
            rules += ["-r", f"__node:={name}"]
        own = self._text(action, "namespace") if "namespace" in action.values else None
        namespace = join_namespaces(self._context.variables.get(_NAMESPACE), own)
        if namespace is not None:
            rules += ["-r", f"__ns:={namespace}"]
        for item in action.values.get("param", ()):
            rules += self._parameter(item)
        for item in action.values.get("remap", ()):
            source, target = (perform(parse(item[key]), self._context) for key in ("from", "to"))
            rules += ["-r", f"{source}:={target}"]
        command += (["--ros-args", *ros_args] if ros_args else []) + ["--ros-args", *rules]
        self._process(action, self._text(action, "exec_name") or name or executable, command)

    def _executable(self, action: Action) -> None:
        command = self._words(action, "cmd")
        if not command:
            raise LaunchError("cmd is empty")
        self._process(action, self._text(action, "name") or Path(command[0]).name, command)

    def _process(self, action: Action, name: str, command: list[str]) -> None:
        environment = dict(self._context.environment)
        for item in action.values.get("env", ()):
            variable, value = (perform(parse(item[key]), self._context) for key in ("name", "value"))
            environment[variable] = value
        values = action.values
        self.processes.append(
            ProcessSpec(
                name=f"{name}-{len(self.processes) + 1}",
                command=tuple(command),
                environment=environment,
                cwd=self._text(action, "cwd") or None,
                respawn=self._truth(self._text(action, "respawn") or "false", "respawn"),
                respawn_delay_s=values.get("respawn_delay", 0.0),
                respawn_max_retries=values.get("respawn_max_retries", -1),
                required=values.get("on_exit") == "shutdown",
                sigterm_timeout_s=values.get("sigterm_timeout", 5.0),
                sigkill_timeout_s=values.get("sigkill_timeout", 5.0),
            )
        )

    def _parameter(self, item: Mapping[str, Any]) -> list[str]:
        """Command line rules of one ``param`` entry."""
        if "from" in item:
            path = perform(parse(item["from"]), self._context)
            if not Path(path).is_file():
                raise LaunchError(f"parameter file {path} does not exist")
            return ["--params-file", path]
        rules = []
        for name, value in self._flatten(item, ""):
            rules += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
        return rules

    def _flatten(self, item: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
        name = prefix + perform(parse(item["name"]), self._context)
        if "param" in item:
            for nested in item["param"]:
                yield from self._flatten(nested, f"{name}.")
        else:
            yield name, self._typed(name, item["value"], item.get("type"))

    def _typed(self, name: str, value: Any, kind: str | None) -> Any:
        """A parameter's value: text made by substitutions is read as YAML unless ``type`` says what it is."""
        if isinstance(value, list):
            if any(isinstance(v, str) and "$(" in v for v in value):
                raise LaunchError(f"param {name}: no substitutions within a list; put the whole list in quotes")
            return value
        if not isinstance(value, str):
            if kind is not None and type(value).__name__ != kind:
                raise LaunchError(f"param {name} must be of type {kind}, got {value!r}")
            return value
        template = parse(value)
        text = perform(template, self._context)
        if is_plain(template):
            if kind not in (None, "str"):
                raise LaunchError(f"param {name} must be of type {kind}, got the string {value!r}; remove the quotes")
            return text
        if kind == "bool":
            return self._truth(text, f"param {name}")
        if kind is None:
            return _from_yaml(name, text)
        try:
            return _TYPES[kind](text)
        except ValueError as error:
            raise LaunchError(f"param {name} must be of type {kind}, got {text!r}") from error

    def _text(self, action: Action, key: str) -> str:
        template = action.text(key)
        return "" if template is None else perform(template, self._context)

    def _words(self, action: Action, key: str) -> list[str]:
        """A command line split at blanks in the file; a substitution never splits, whatever it holds."""
        template = action.text(key)
        return [] if template is None else split_words(template, self._context)

    @staticmethod
    def _truth(text: str, what: str) -> bool:
        truths = {"true": True, "1": True, "false": False, "0": False}
        if text.strip().lower() not in truths:
            raise LaunchError(f"{what} must be true, 1, false or 0, got {text!r}")
        return truths[text.strip().lower()]

    _HANDLERS: Mapping[str, Callable[[_Planner, Action], None]] = {
        "arg": _arg,
        "let": _let,
        "set_env": _set_env,
        "unset_env": _unset_env,
        "group": _group,
        "include": _include,
        "push_ros_namespace": _push_namespace,
        "push-ros-namespace": _push_namespace,
        "log": _log,
        "node": _node,
        "executable": _executable,
    }


def join_namespaces(base: str | None, name: str | None) -> str | None:
    """Absolute namespace of ``name`` within ``base``; None when neither is given."""
    if base is None and name is None:
        return None
    joined = name if name is not None else base or ""
    if base and name is not None and not name.startswith("/"):
        joined = f"{base.rstrip('/')}/{name}"
    return "/" + joined.strip("/")


def split_words(template: Template, context: Context) -> list[str]:
    """Split like a shell, with each substitution's text kept in one piece.

    Raises:
        LaunchError: a quote that is not closed before the next substitution, which ROS's launch refuses.
    """
    held: dict[str, str] = {}
    text = ""
    for part in template:
        if isinstance(part, Substitution):
            mark = f"\x00{len(held)}\x00"
            held[mark] = part.perform(context)
            text += mark
        else:
            text += part
            _check_quotes(part)
    words = shlex.split(text)
    return [re.sub("\x00[0-9]+\x00", lambda match: held[match[0]], word) for word in words]


def _check_quotes(text: str) -> None:
    try:
        shlex.split(text)
    except ValueError as error:
        hint = "no quotes around substitutions, they are never split"
        raise LaunchError(f"cannot split {text!r} into words: {error}; {hint}") from error


def _from_yaml(name: str, text: str) -> Any:
    if not text:
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LaunchError(f"param {name}: {text!r} is not valid YAML ({error}); add type: str") from error
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, bool | int | float | str) for item in items):
        raise LaunchError(f"param {name}: {text!r} is neither a scalar nor a list of scalars; add type: str")
    return value
