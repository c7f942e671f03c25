"""URScript text to a syntax tree.

URScript looks line-oriented and is not: clients inject values with comments and newlines in the middle of a
statement (``global x = # offset`` newline ``0    global y = 2``). So the parser works on the token stream and lets
the grammar end each statement; line numbers serve error messages only, and one rule: ``return`` takes a value only
from its own line.

Left out, because no client of this robot sends it: ``switch``, ``struct``, interpolated strings.
"""

from __future__ import annotations

import re
from typing import NamedTuple

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

# --- tokens ----------------------------------------------------------------------------------------------------------


class Token(NamedTuple):
    """``kind`` is "number", "string", "name", "operator" or "end of text"."""

    kind: str
    text: str
    line: int


_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<string>"[^"\n]*"|'[^'\n]*')
    |(?P<operator>==|!=|<=|>=|[-+*/%<>=()\[\],:.])""",
    re.VERBOSE,
)


def tokenize(text: str) -> list[Token]:
    """Tokens of a program, without comments and white space.

    Raises:
        ScriptSyntaxError: a character that starts no token.
    """
    tokens: list[Token] = []
    line, position, size = 1, 0, len(text)
    match = _TOKEN.match
    while position < size:
        found = match(text, position)
        if found is None:
            raise ScriptSyntaxError(f"line {line}: unexpected character {text[position]!r}")
        kind = found.lastgroup
        if kind == "newline":
            line += 1
        elif kind is not None and kind != "skip":
            tokens.append(Token(kind, found.group(), line))
        position = found.end()
    tokens.append(Token("end of text", "", line))
    return tokens


# --- parser ----------------------------------------------------------------------------------------------------------

_SIMPLE = frozenset(("break", "continue", "pass", "halt", "return", "kill", "join", "enter_critical", "exit_critical"))
_CLOSERS = frozenset(("end", "elif", "else"))
_KEYWORDS = (
    _SIMPLE | _CLOSERS | {"if", "while", "def", "thread", "sec", "global", "local", "run", "and", "or", "not", "xor"}
)
_LEVELS: tuple[dict[str, str], ...] = (
    {"or": "or", "xor": "xor"},
    {"and": "and"},
    {"==": "==", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">="},
    {"+": "+", "-": "-"},
    {"*": "*", "/": "/", "%": "%"},
)
"""Binary operators, weakest first; ``not`` stands between ``and`` and the comparisons, unary minus after the last."""


def parse(text: str) -> Function:
    """The program a client sent: one ``def`` or ``sec``, or loose statements (wrapped into a ``def``).

    Raises:
        ScriptSyntaxError: the text is no URScript this twin understands.
    """
    parser = _Parser(tokenize(text))
    statements = parser.block(top=True)
    programs = [s for s in statements if isinstance(s, Function) and s.kind in ("def", "sec")]
    if len(programs) == 1 and len(statements) == 1:
        return programs[0]
    return Function("def", "unnamed", [], statements, 1)


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    # --- statements ---

    def block(self, *, top: bool = False) -> list[Statement]:
        statements: list[Statement] = []
        while True:
            token = self._tokens[self._at]
            if token.kind == "end of text":
                if top:
                    return statements
                raise ScriptSyntaxError(f"line {token.line}: the program ends inside a block; an 'end' is missing")
            if token.text in _CLOSERS and token.kind == "name":
                if top:
                    raise ScriptSyntaxError(f"line {token.line}: {token.text!r} without a block")
                return statements
            statements.append(self._statement(token))

    def _statement(self, token: Token) -> Statement:
        word, line = token.text, token.line
        if token.kind == "name":
            if word == "if":
                return self._if(line)
            if word == "while":
                self._at += 1
                condition = self._expression()
                return While(condition, self._body(), line)
            if word in ("def", "thread", "sec"):
                return self._function(word, line)
            if word in ("global", "local"):
                self._at += 1
                return self._assignment(self._postfix(), word, line)
            if word in _SIMPLE:
                return self._simple(word, line)
        target = self._expression()
        if self._tokens[self._at].text == "=":
            return self._assignment(target, "", line)
        return Evaluate(target, line)

    def _assignment(self, target: Expression, scope: str, line: int) -> Assign:
        if not isinstance(target, Name | Index):
            raise ScriptSyntaxError(f"line {line}: only a variable or an element of one can be assigned")
        self._expect("=")
        return Assign(target, self._expression(), scope, line)

    def _simple(self, word: str, line: int) -> Simple:
        self._at += 1
        value: Expression | None = None
        following = self._tokens[self._at]
        if word in ("kill", "join") or (
            word == "return" and following.line == line and following.text not in _CLOSERS | {""}
        ):
            value = self._expression()
        return Simple(word, value, line)

    def _if(self, line: int) -> If:
        branches: list[tuple[Expression, list[Statement]]] = []
        otherwise: list[Statement] = []
        self._at += 1
        while True:
            condition = self._expression()
            self._colon()
            branches.append((condition, self.block()))
            word = self._take().text
            if word == "elif":
                continue
            if word == "else":
                self._colon()
                otherwise = self.block()
                self._expect("end")
            return If(branches, otherwise, line)

    def _function(self, kind: str, line: int) -> Function:
        self._at += 1
        function = Function(kind, self._take_name(), [], line=line)
        self._expect("(")
        while self._tokens[self._at].text != ")":
            name = self._take_name()
            default = None
            if self._tokens[self._at].text == "=":
                self._at += 1
                default = self._expression()
            function.parameters.append((name, default))
            if self._tokens[self._at].text == ",":
                self._at += 1
        self._at += 1
        function.body = self._body()
        return function

    def _body(self) -> list[Statement]:
        self._colon()
        statements = self.block()
        self._expect("end")
        return statements

    # --- expressions ---

    def _expression(self, level: int = 0) -> Expression:
        if level == 2 and self._tokens[self._at].text == "not":
            self._at += 1
            return Unary("not", self._expression(2))
        if level == len(_LEVELS):
            return self._unary()
        left = self._expression(level + 1)
        operators = _LEVELS[level]
        while (operator := operators.get(self._tokens[self._at].text)) and self._tokens[self._at].kind != "string":
            self._at += 1
            left = Binary(operator, left, self._expression(level + 1))
        return left

    def _unary(self) -> Expression:
        if self._tokens[self._at].text in ("-", "+"):
            operator = self._take().text
            operand = self._unary()
            return Unary("-", operand) if operator == "-" else operand
        return self._postfix()

    def _postfix(self) -> Expression:
        value = self._primary()
        while self._tokens[self._at].text == "[":
            self._at += 1
            value = Index(value, self._items("]"))
        return value

    def _primary(self) -> Expression:
        token = self._take()
        word = token.text
        if token.kind == "number":
            return Literal(word if word[:2] in ("0x", "0X") or not word.isdigit() else str(int(word)))
        if token.kind == "string":
            return Literal(repr(word[1:-1]))
        if word == "(":
            value = self._expression()
            self._expect(")")
            return value
        if word == "[":
            return Items(self._items("]"), pose=False)
        if token.kind != "name":
            raise ScriptSyntaxError(f"line {token.line}: expected a value, got {word or 'the end of the program'!r}")
        if word in ("True", "False"):
            return Literal(word)
        if word == "run":
            call = self._primary()
            if not isinstance(call, Call):
                raise ScriptSyntaxError(f"line {token.line}: 'run' needs a call, as in run name()")
            call.run = True
            return call
        if word in _KEYWORDS:
            raise ScriptSyntaxError(f"line {token.line}: keyword {word!r} where a value was expected")
        following = self._tokens[self._at].text
        if following == "(":
            self._at += 1
            return self._call(word, token.line)
        if word == "p" and following == "[":
            # Six numbers make a pose; one index reads a variable that happens to be called p.
            self._at += 1
            items = self._items("]")
            if len(items) in (1, 2):
                return Index(Name("p", token.line), items)
            if len(items) != 6:
                raise ScriptSyntaxError(f"line {token.line}: a pose p[...] has six numbers, got {len(items)}")
            return Items(items, pose=True)
        return Name(word, token.line)

    def _call(self, name: str, line: int) -> Call:
        call = Call(name, [], {}, line)
        while self._tokens[self._at].text != ")":
            token, following = self._tokens[self._at], self._tokens[self._at + 1]
            if token.kind == "name" and following.text == "=":
                self._at += 2
                call.named[token.text] = self._expression()
            else:
                call.arguments.append(self._expression())
            if self._tokens[self._at].text != ",":
                break
            self._at += 1
        self._expect(")")
        return call

    def _items(self, closer: str) -> list[Expression]:
        items: list[Expression] = []
        while self._tokens[self._at].text != closer:
            items.append(self._expression())
            if self._tokens[self._at].text != ",":
                break
            self._at += 1
        self._expect(closer)
        return items

    # --- tokens ---

    def _take(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != "end of text":
            self._at += 1
        return token

    def _take_name(self) -> str:
        token = self._take()
        if token.kind != "name" or token.text in _KEYWORDS:
            raise ScriptSyntaxError(f"line {token.line}: expected a name, got {token.text!r}")
        return token.text

    def _expect(self, text: str) -> None:
        token = self._take()
        if token.text != text:
            raise ScriptSyntaxError(
                f"line {token.line}: expected {text!r}, got {token.text or 'the end of the program'!r}"
            )

    def _colon(self) -> None:
        if self._tokens[self._at].text == ":":
            self._at += 1
