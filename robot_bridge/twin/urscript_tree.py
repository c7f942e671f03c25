"""The syntax tree of a URScript program."""

from __future__ import annotations

from dataclasses import dataclass, field


class ScriptSyntaxError(ValueError):
    """A robot program that cannot be parsed or compiled; the message names the line."""


@dataclass(slots=True)
class Literal:
    """A number, string or truth value; ``text`` is valid Python."""

    text: str


@dataclass(slots=True)
class Name:
    """A variable."""

    name: str
    line: int


@dataclass(slots=True)
class Items:
    """A list ``[...]`` or, with ``pose``, a pose ``p[...]``."""

    items: list[Expression]
    pose: bool


@dataclass(slots=True)
class Index:
    """``target[key]`` or ``target[row, column]``."""

    target: Expression
    keys: list[Expression]


@dataclass(slots=True)
class Unary:
    """``-x`` or ``not x``."""

    operator: str
    operand: Expression


@dataclass(slots=True)
class Binary:
    """Two operands."""

    operator: str
    left: Expression
    right: Expression


@dataclass(slots=True)
class Call:
    """``name(args, key=value)``; with ``run`` the function starts as a thread and the value is its handle."""

    name: str
    arguments: list[Expression]
    named: dict[str, Expression]
    line: int
    run: bool = False


Expression = Literal | Name | Items | Index | Unary | Binary | Call


@dataclass(slots=True)
class Assign:
    """``[global|local] target = value``."""

    target: Name | Index
    value: Expression
    scope: str
    line: int


@dataclass(slots=True)
class Evaluate:
    """An expression for its effect."""

    value: Expression
    line: int


@dataclass(slots=True)
class If:
    """``if``/``elif`` branches in order, then ``else``."""

    branches: list[tuple[Expression, list[Statement]]]
    otherwise: list[Statement]
    line: int


@dataclass(slots=True)
class While:
    """A loop."""

    condition: Expression
    body: list[Statement]
    line: int


@dataclass(slots=True)
class Simple:
    """A keyword statement: break, continue, pass, halt, return, kill, join, enter_critical, exit_critical."""

    keyword: str
    value: Expression | None
    line: int


@dataclass(slots=True)
class Function:
    """``def``, ``thread`` or ``sec`` (a secondary program: only at the top level)."""

    kind: str
    name: str
    parameters: list[tuple[str, Expression | None]]
    body: list[Statement] = field(default_factory=list)
    line: int = 0


Statement = Assign | Evaluate | If | While | Simple | Function
