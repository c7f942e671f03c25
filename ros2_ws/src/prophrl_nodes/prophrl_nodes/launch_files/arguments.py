"""Arguments of a launch file: ``name:=value`` on the command line, ``--show-args``, choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prophrl_nodes.launch_files.errors import LaunchError, did_you_mean
from prophrl_nodes.launch_files.parser import Action, LaunchFile, read_launch_file
from prophrl_nodes.launch_files.substitutions import Context, is_plain, parse, perform


@dataclass(frozen=True)
class Argument:
    """One declared argument; ``default`` as written in the file, None when it must be given."""

    name: str
    description: str
    default: str | None
    choices: tuple[str, ...]


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """``name:=value`` words as a dictionary; the last one wins, as with ``ros2 launch``.

    Raises:
        LaunchError: a word of another form.
    """
    values = {}
    for word in words:
        name, sign, value = word.partition(":=")
        if not sign or not name or not value:
            raise LaunchError(f"malformed argument {word!r}; write NAME:=VALUE")
        values[name] = value
    return values


def declared_arguments(file: LaunchFile) -> list[Argument]:
    """Arguments of a file and of the files it includes, the file's own first.

    What an include sets itself cannot be given from outside, but its name stays valid: launch variables are one flat
    scope.
    """
    found: dict[str, Argument] = {}
    for action in _walk(file, depth=0):
        name = str(action.values["name"])
        found.setdefault(
            name,
            Argument(name, str(action.values.get("description", "")), action.values.get("default"), _choices(action)),
        )
    return list(found.values())


def check_known(values: Mapping[str, str], arguments: Sequence[Argument]) -> None:
    """Refuse arguments that no file declares; ``ros2 launch`` would ignore a misspelt one.

    Raises:
        LaunchError: names the argument and those there are.
    """
    known = [a.name for a in arguments]
    for name in values:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise LaunchError(f"unknown argument {name!r}; this file takes {listed}{did_you_mean(name, known)}")


def check_choice(action: Action, value: str) -> None:
    """Refuse a value outside the ``choice`` list of an ``arg``.

    Raises:
        LaunchError: names the argument, the value and the choices.
    """
    choices = _choices(action)
    if choices and value not in choices:
        name = action.values["name"]
        hint = did_you_mean(value, choices)
        raise LaunchError(f"argument {name}:={value} is not valid; choose one of {', '.join(choices)}{hint}")


def describe(arguments: Sequence[Argument]) -> str:
    """The text of ``--show-args``."""
    lines = ["Arguments (pass arguments as '<name>:=<value>'):"]
    for argument in arguments:
        lines += ["", f"    '{argument.name}':", f"        {argument.description or 'no description given'}"]
        if argument.choices:
            lines.append(f"        one of: {', '.join(argument.choices)}")
        lines.append("        (required)" if argument.default is None else f"        (default: {argument.default!r})")
    return "\n".join(lines if arguments else [*lines, "", "    none"])


def _choices(action: Action) -> tuple[str, ...]:
    return tuple(str(item["value"]) for item in action.values.get("choice", ()))


def _walk(file: LaunchFile, depth: int) -> Iterator[Action]:
    """Every ``arg`` of a file, then those of its includes, conditional or not."""
    if depth > 20:
        raise LaunchError(f"{file.path} includes itself, directly or through others")
    actions = list(_flat(file.actions))
    yield from (a for a in actions if a.kind == "arg")
    for action in actions:
        path = _static_path(action, file) if action.kind == "include" else None
        if path is not None:
            yield from _walk(read_launch_file(path), depth + 1)


def _flat(actions: Sequence[Action]) -> Iterator[Action]:
    for action in actions:
        yield action
        yield from _flat(action.children)


def _static_path(action: Action, file: LaunchFile) -> Path | None:
    """The included file, unless its name depends on an argument."""
    template = parse(action.values["file"])
    if not is_plain(template) and "$(var" in action.values["file"]:
        return None
    return Path(perform(template, Context(folder=file.path.resolve().parent)))
