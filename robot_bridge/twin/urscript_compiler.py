"""URScript tree to Python: every function that can take robot time becomes a generator, one ``yield`` = one 2 ms frame.

The generated module is one function ``program(V, F, R)`` whose locals are the variables all parts of the robot program
share; URScript's functions and threads nest inside it, so Python's own closures give URScript's scoping: names assigned
at program level or declared ``global`` are shared, all others are local to their function. Functions that never block
stay plain functions, because a ``yield from`` chain at every frame would cost more than their work.

Lists have value semantics in URScript: a copy is made wherever a variable's list is handed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType

from robot_bridge.twin.urscript_tree import (
    Assign,
    Binary,
    Call,
    Evaluate,
    Expression,
    Function,
    If,
    Index,
    Items,
    Literal,
    Name,
    ScriptSyntaxError,
    Simple,
    Statement,
    Unary,
    While,
)

FILE_NAME = "<urscript>"


@dataclass(frozen=True)
class Compiled:
    """Python code of one robot program and the URScript line of each of its lines."""

    name: str
    secondary: bool
    code: CodeType
    source: str
    lines: tuple[int, ...]


def compile_program(program: Function, builtins: Mapping[str, bool]) -> Compiled:
    """Compile a parsed program.

    Args:
        program: what ``urscript_parser.parse`` returned.
        builtins: the script functions of the controller by name; True for those that take robot time.

    Raises:
        ScriptSyntaxError: an unknown function or variable, named with its line, as the controller reports it at load.
    """
    writer = _Writer(program, builtins)
    source, lines = writer.write()
    code = compile(source, FILE_NAME, "exec")
    return Compiled(program.name, program.kind == "sec", code, source, lines)


class _Scope:
    """The names of one function: ``own`` live in it, everything else it may see belongs to outer scopes."""

    def __init__(self, outer: _Scope | None, own: set[str], functions: dict[str, Function]) -> None:
        self.outer = outer
        self.own = own
        self.functions = functions

    def sees(self, name: str) -> bool:
        return name in self.own or (self.outer is not None and self.outer.sees(name))

    def function(self, name: str) -> Function | None:
        if name in self.functions:
            return self.functions[name]
        return self.outer.function(name) if self.outer is not None else None


class _Writer:
    def __init__(self, program: Function, builtins: Mapping[str, bool]) -> None:
        self._program = program
        self._builtins = builtins
        self._source: list[str] = []
        self._lines: list[int] = []
        self._used: set[str] = set()
        self._blocking = _blocking_functions(program, builtins)

    def write(self) -> tuple[str, tuple[int, ...]]:
        shared = _assigned(self._program.body, "") | _declared_global(self._program.body)
        functions = {s.name: s for s in self._program.body if isinstance(s, Function)}
        scope = _Scope(None, shared, functions)
        self._put(0, "def program(F, R, V, P, C):", 0)
        for name in sorted(shared):
            # Never runs; it makes the name a cell of this function that the nested functions share.
            self._put(1, f"if 0: v_{name} = 0", 0)
        hoisted = len(self._source)
        for function in functions.values():
            self._function(function, scope, 1)
        self._put(1, "def main():", self._program.line)
        self._nonlocals(sorted(shared), 2)
        self._block([s for s in self._program.body if not isinstance(s, Function)], scope, 2)
        self._put(2, "return", 0)
        self._put(2, "yield", 0)
        self._put(1, "return main", 0)
        locals_of_builtins = [f"    b_{name} = F[{name!r}]" for name in sorted(self._used)]
        source = self._source[:hoisted] + locals_of_builtins + self._source[hoisted:]
        lines = self._lines[:hoisted] + [0] * len(locals_of_builtins) + self._lines[hoisted:]
        return "\n".join(source) + "\n", tuple(lines)

    def _put(self, depth: int, text: str, line: int) -> None:
        self._source.append("    " * depth + text)
        self._lines.append(line)

    def _nonlocals(self, names: list[str], depth: int) -> None:
        if names:
            self._put(depth, "nonlocal " + ", ".join(f"v_{name}" for name in names), 0)

    # --- functions ---

    def _function(self, function: Function, outer: _Scope, depth: int) -> None:
        if function.kind == "sec":
            raise ScriptSyntaxError(f"line {function.line}: a secondary program cannot stand inside another program")
        parameters = {name for name, _ in function.parameters}
        assigned = _assigned(function.body, "")
        declared = _assigned(function.body, "local", only=True)
        own = parameters | declared | {name for name in assigned if not outer.sees(name)}
        inner = {s.name: s for s in function.body if isinstance(s, Function)}
        scope = _Scope(outer, own, inner)
        signature = ", ".join(
            f"v_{name}" if default is None else f"v_{name}={self._expression(default, outer)}"
            for name, default in function.parameters
        )
        self._put(depth, f"def f_{function.name}({signature}):", function.line)
        self._nonlocals(sorted(assigned - own), depth + 1)
        for nested in inner.values():
            self._function(nested, scope, depth + 1)
        self._block([s for s in function.body if not isinstance(s, Function)], scope, depth + 1)
        if function.name in self._blocking:
            self._put(depth + 1, "return", 0)
            self._put(depth + 1, "yield", 0)

    def _block(self, statements: list[Statement], scope: _Scope, depth: int) -> None:
        if not statements:
            self._put(depth, "pass", 0)
        for statement in statements:
            self._statement(statement, scope, depth)

    def _statement(self, s: Statement, scope: _Scope, depth: int) -> None:
        if isinstance(s, Assign):
            value = self._value(s.value, scope)
            if isinstance(s.target, Index):
                self._put(depth, f"{self._expression(s.target, scope)} = {value}", s.line)
            else:
                self._put(depth, f"v_{s.target.name} = {value}", s.line)
        elif isinstance(s, Evaluate):
            self._put(depth, self._expression(s.value, scope), s.line)
        elif isinstance(s, If):
            for i, (condition, body) in enumerate(s.branches):
                self._put(depth, f"{'elif' if i else 'if'} {self._expression(condition, scope)}:", s.line)
                self._block(body, scope, depth + 1)
            if s.otherwise:
                self._put(depth, "else:", s.line)
                self._block(s.otherwise, scope, depth + 1)
        elif isinstance(s, While):
            self._put(depth, f"while {self._expression(s.condition, scope)}:", s.line)
            # A loop that never reaches a frame's end would hang the controller: it gets a budget.
            self._put(depth + 1, "R.budget -= 1", s.line)
            self._put(depth + 1, "if R.budget < 0: R.overrun()", s.line)
            self._block(s.body, scope, depth + 1)
        elif isinstance(s, Simple):
            self._simple(s, scope, depth)
        else:
            raise ScriptSyntaxError(f"line {s.line}: a function can be defined at the top of a program only")

    def _simple(self, s: Simple, scope: _Scope, depth: int) -> None:
        value = self._value(s.value, scope) if s.value is not None else ""
        text = {
            "return": f"return {value}".rstrip(),
            "kill": f"R.kill({value})",
            "join": f"yield from R.join({value})",
            "enter_critical": "R.enter_critical()",
            "exit_critical": "R.exit_critical()",
            "halt": "R.halt()",
        }.get(s.keyword, s.keyword)
        self._put(depth, text, s.line)

    # --- expressions ---

    def _value(self, e: Expression, scope: _Scope) -> str:
        """An expression whose list, if it is one, the receiver may keep: copied when a variable still holds it."""
        text = self._expression(e, scope)
        if isinstance(e, Name | Index) or (isinstance(e, Call) and scope.function(e.name) is not None and not e.run):
            return f"C({text})"
        return text

    def _expression(self, e: Expression, scope: _Scope) -> str:
        if isinstance(e, Literal):
            return e.text
        if isinstance(e, Name):
            if not scope.sees(e.name):
                raise ScriptSyntaxError(f"line {e.line}: variable {e.name!r} is not defined")
            return f"v_{e.name}"
        if isinstance(e, Binary):
            return f"({self._expression(e.left, scope)} {_PYTHON[e.operator]} {self._expression(e.right, scope)})"
        if isinstance(e, Unary):
            return f"({e.operator} {self._expression(e.operand, scope)})"
        if isinstance(e, Items):
            items = ", ".join(self._value(item, scope) for item in e.items)
            return f"{'P' if e.pose else 'V'}(({items}{',' if items else ''}))"
        if isinstance(e, Index):
            keys = "][".join(self._key(key, scope) for key in e.keys)
            return f"{self._expression(e.target, scope)}[{keys}]"
        return self._call(e, scope)

    def _key(self, key: Expression, scope: _Scope) -> str:
        text = self._expression(key, scope)
        return text if isinstance(key, Literal) and text.isdigit() else f"R.index({text})"

    def _call(self, e: Call, scope: _Scope) -> str:
        values = [self._value(a, scope) for a in e.arguments]
        function = scope.function(e.name)
        if function is not None:
            named = [f"v_{key}={self._value(value, scope)}" for key, value in e.named.items()]
            arguments = ", ".join(values + named)
            _check_arguments(function, e)
            if e.run:
                return f"R.run({e.name!r}, f_{e.name}{', ' if arguments else ''}{arguments})"
            text = f"f_{e.name}({arguments})"
            return f"(yield from {text})" if e.name in self._blocking else text
        if e.name not in self._builtins:
            raise ScriptSyntaxError(f"line {e.line}: function {e.name!r} is not defined")
        if e.run:
            raise ScriptSyntaxError(f"line {e.line}: 'run' starts threads of the program, {e.name!r} is not one")
        self._used.add(e.name)
        arguments = ", ".join(values + [f"{key}={self._value(value, scope)}" for key, value in e.named.items()])
        text = f"b_{e.name}({arguments})"
        return f"(yield from {text})" if self._builtins[e.name] else text


_PYTHON = {op: op for op in ("and", "or", "==", "!=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%")} | {"xor": "!="}


def _check_arguments(function: Function, call: Call) -> None:
    names = [name for name, _ in function.parameters]
    required = [name for name, default in function.parameters if default is None]
    given = names[: len(call.arguments)] + list(call.named)
    if (
        len(call.arguments) > len(names)
        or any(name not in names for name in call.named)
        or any(name not in given for name in required)
    ):
        raise ScriptSyntaxError(f"line {call.line}: {call.name}() takes ({', '.join(names)})")


def _statements(body: list[Statement]) -> Iterator[Statement]:
    """All statements of a body, inside its branches and loops too, but not inside nested functions."""
    for s in body:
        yield s
        if isinstance(s, If):
            for _, branch in s.branches:
                yield from _statements(branch)
            yield from _statements(s.otherwise)
        elif isinstance(s, While):
            yield from _statements(s.body)


def _assigned(body: list[Statement], scope: str, *, only: bool = False) -> set[str]:
    """Names assigned in a body: all of them, or with ``only`` those that carry the given scope word."""
    return {
        s.target.name
        for s in _statements(body)
        if isinstance(s, Assign) and isinstance(s.target, Name) and (not only or s.scope == scope)
    }


def _declared_global(body: list[Statement]) -> set[str]:
    names = _assigned(body, "global", only=True)
    for s in body:
        if isinstance(s, Function):
            names |= _declared_global(s.body)
    return names


def _calls(e: Expression | None) -> Iterator[Call]:
    if isinstance(e, Call):
        yield e
        children: list[Expression] = [*e.arguments, *e.named.values()]
    elif isinstance(e, Binary):
        children = [e.left, e.right]
    elif isinstance(e, Unary):
        children = [e.operand]
    elif isinstance(e, Items):
        children = e.items
    elif isinstance(e, Index):
        children = [e.target, *e.keys]
    else:
        children = []
    for child in children:
        yield from _calls(child)


def _expressions(s: Statement) -> Iterator[Expression | None]:
    if isinstance(s, Assign):
        yield s.value
        yield s.target
    elif isinstance(s, Evaluate | Simple):
        yield s.value
    elif isinstance(s, If):
        for condition, _ in s.branches:
            yield condition
    elif isinstance(s, While):
        yield s.condition


def _blocking_functions(program: Function, builtins: Mapping[str, bool]) -> set[str]:
    """Functions and threads of a program that can take robot time, directly or through what they call."""
    calls: dict[str, set[str]] = {}
    blocking: set[str] = set()  # threads are always generators: the scheduler resumes them frame by frame

    def visit(function: Function) -> None:
        named: set[str] = set()
        if function.kind == "thread":
            blocking.add(function.name)
        for s in _statements(function.body):
            if isinstance(s, Function):
                visit(s)
            elif isinstance(s, Simple) and s.keyword == "join":
                blocking.add(function.name)
            for call in (call for expression in _expressions(s) for call in _calls(expression)):
                (blocking if call.run else named).add(call.name)
        calls[function.name] = named

    visit(program)
    own = set(calls)
    blocking |= {name for name, called in calls.items() if any(builtins.get(c, False) for c in called - own)}
    grown = True
    while grown:
        grown = False
        for name, called in calls.items():
            if name not in blocking and called & blocking:
                blocking.add(name)
                grown = True
    return blocking
