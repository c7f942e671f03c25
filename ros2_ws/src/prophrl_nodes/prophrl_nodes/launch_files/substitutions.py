"""Strings with ``$(...)`` in launch files: the grammar of ROS's front ends, and the substitutions our files use.

A text is a sequence of plain pieces and substitutions ``$(name argument ...)``. Arguments are separated by one
blank, may be quoted with ' or ", and may hold substitutions themselves. ``\\$`` is a plain dollar.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prophrl_nodes.launch_files.errors import LaunchError, did_you_mean
from prophrl_nodes.launch_files.packages import share_folder

Template = Sequence["str | Substitution"]


@dataclass
class Context:
    """What substitutions see: launch variables, the environment, and the folder of the file being read."""

    variables: dict[str, str] = field(default_factory=dict)
    environment: MutableMapping[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: Path = Path()


@dataclass(frozen=True)
class Substitution:
    """``$(name arguments...)``."""

    name: str
    arguments: tuple[Template, ...]

    def perform(self, context: Context) -> str:
        """The text that takes its place.

        Raises:
            LaunchError: an unset variable, unknown package, or expression that cannot be evaluated.
        """
        return _KNOWN[self.name][2](context, *[perform(a, context) for a in self.arguments])


def parse(text: str) -> Template:
    """Split a text into plain pieces and substitutions.

    Raises:
        LaunchError: unknown substitution, wrong number of arguments, missing parenthesis or quote.
    """
    parts, end = _Scanner(text).template("")
    assert end == len(text)
    return parts


def perform(template: Template, context: Context) -> str:
    """The text with every substitution replaced."""
    return "".join(part if isinstance(part, str) else part.perform(context) for part in template)


def is_plain(template: Template) -> bool:
    """Whether a parsed text has no substitution in it."""
    return all(isinstance(part, str) for part in template)


class _Scanner:
    """Recursive descent over one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def template(self, stop: str) -> tuple[list[str | Substitution], int]:
        """Pieces up to one of the characters in ``stop`` (not consumed), or to the end."""
        parts: list[str | Substitution] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "\\" and self._at + 1 < len(self._text):
                self._append(parts, self._text[self._at + 1])
                self._at += 2
            elif self._text.startswith("$(", self._at):
                parts.append(self._substitution())
            elif stop and char in stop:
                break
            else:
                self._append(parts, char)
                self._at += 1
        return parts, self._at

    def _substitution(self) -> Substitution:
        self._at += 2
        begin = self._at
        while self._at < len(self._text) and (self._text[self._at].isalnum() or self._text[self._at] in "_-"):
            self._at += 1
        name = self._text[begin : self._at]
        arguments = []
        while self._at < len(self._text) and self._text[self._at] == " ":
            self._at += 1
            arguments.append(self._argument())
        if not self._text.startswith(")", self._at):
            raise LaunchError(f"{self._text!r}: expected ')' at position {self._at}, after $({name}")
        self._at += 1
        return _checked(name, tuple(arguments), self._text)

    def _argument(self) -> Template:
        quote = self._text[self._at : self._at + 1]
        if quote in ("'", '"') and quote:
            self._at += 1
            parts, _ = self.template(quote)
            if not self._text.startswith(quote, self._at):
                raise LaunchError(f"{self._text!r}: a quote {quote} is not closed")
            self._at += 1
            return parts
        return self.template(" )")[0]

    @staticmethod
    def _append(parts: list[str | Substitution], char: str) -> None:
        last = parts[-1] if parts else None
        if isinstance(last, str):
            parts[-1] = last + char
        else:
            parts.append(char)


def _checked(name: str, arguments: tuple[Template, ...], text: str) -> Substitution:
    if name not in _KNOWN:
        raise LaunchError(f"{text!r}: unknown substitution $({name}); known are {', '.join(_KNOWN)}{_meant(name)}")
    least, most, _ = _KNOWN[name]
    if not least <= len(arguments) <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise LaunchError(f"{text!r}: $({name}) takes {expected} arguments, got {len(arguments)}")
    return Substitution(name, arguments)


def _meant(name: str) -> str:
    return did_you_mean(name, _KNOWN)


def _variable(context: Context, name: str, default: str | None = None) -> str:
    if name in context.variables:
        return context.variables[name]
    if default is not None:
        return default
    hint = did_you_mean(name, context.variables)
    raise LaunchError(f"$(var {name}): not set; set are {', '.join(sorted(context.variables)) or 'none'}{hint}")


def _environment(context: Context, name: str, default: str | None = None) -> str:
    value = context.environment.get(name, default)
    if value is None:
        raise LaunchError(f"$(env {name}): the environment variable is not set; set it, or give a default")
    return value


def _evaluate(_context: Context, expression: str) -> str:
    """Literals, comparisons and arithmetic only: nothing in a launch file needs to call functions."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise LaunchError(f"$(eval {expression!r}): {error.msg}") from error
    for node in ast.walk(tree):
        if not isinstance(node, _EVALUATED):
            raise LaunchError(f"$(eval {expression!r}): {type(node).__name__} is not supported, only plain expressions")
    try:
        return str(eval(compile(tree, "<launch file>", "eval"), {"__builtins__": {}}))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise LaunchError(f"$(eval {expression!r}): {error}") from error


_EVALUATED = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Load),
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.IfExp),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
)

_KNOWN: dict[str, tuple[int, int, Callable[..., str]]] = {
    "var": (1, 2, _variable),
    "env": (1, 2, _environment),
    "find-pkg-share": (1, 1, lambda _context, package: str(share_folder(package))),
    "dirname": (0, 0, lambda context: str(context.folder)),
    "eval": (1, 1, _evaluate),
}
