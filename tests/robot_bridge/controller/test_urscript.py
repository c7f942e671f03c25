"""The URScript interpreter alone: language, threads, errors, streams of text.

No controller here: script functions are a handful of recorders, a frame is one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from robot_bridge.twin.urscript import Interpreter, ProgramSplitter
from robot_bridge.twin.urscript_parser import parse
from robot_bridge.twin.urscript_tree import ScriptSyntaxError


class Recorder:
    """An interpreter whose programs can note values and spend frames."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        functions = {"note": self.notes.append, "sync": self._sync, "note2": lambda a, b=0: self.notes.append((a, b))}
        self.interpreter = Interpreter(functions, frozenset({"sync"}))

    @staticmethod
    def _sync() -> Iterator[None]:
        yield

    def run(self, text: str, frames: int = 50) -> list[Any]:
        assert self.interpreter.upload(text), list(self.interpreter.log)
        for _ in range(frames):
            self.interpreter.frame()
        return self.notes

    @property
    def last_log(self) -> str:
        return self.interpreter.log[-1]


@pytest.fixture
def script() -> Recorder:
    return Recorder()


def program(body: str) -> str:
    return f"def prog():\n{body}\nend\n"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("-2 - -3", 1),
        ("7 / 2", 3.5),
        ("7 % 4", 3),
        ("0x1F", 31),
        ("1.5e-3", 0.0015),
        (".5", 0.5),
        ("1 < 2 and not 3 < 2", True),
        ("True xor True", False),
        ("False or 2 >= 2", True),
        ("not 1 == 2", True),
        ('"a # not a comment"', "a # not a comment"),
        ("[1, [2, 3]][1][0]", 2),
        ("p[1,2,3,0,0,0][2]", 3),
        ("[1,2,3] + [1,1,1]", [2, 3, 4]),
        ("[1,2] * 3", [3, 6]),
    ],
)
def test_expressions(script: Recorder, expression: str, value: Any) -> None:
    assert script.run(program(f"note({expression})")) == [value]


def test_control_flow(script: Recorder) -> None:
    body = """
    i = 0
    while True:
      i = i + 1
      if i == 2:
        continue
      elif i > 4:
        break
      else:
        note(i)
      end
    end
    note(100)"""
    assert script.run(program(body)) == [1, 3, 4, 100]


def test_newlines_and_comments_do_not_end_statements(script: Recorder) -> None:
    """Clients inject register offsets as '# comment<newline>0' in the middle of an assignment."""
    body = "global a = # offset\n0    global b = 2\nnote(a)\nnote(b)\nnote2(1,\n  2)"
    assert script.run(program(body)) == [0, 2, (1, 2)]


def test_return_takes_a_value_from_its_own_line_only(script: Recorder) -> None:
    body = """
    def early(x):
      if x > 0:
        return
      end
      note(x)
      return x
    end
    early(1)
    note(early(-5))"""
    assert script.run(program(body)) == [-5, -5]


def test_names_of_the_program_are_shared_and_others_local(script: Recorder) -> None:
    body = """
    shared = 1
    def f():
      shared = 2
      own = 3
      global declared = own
      local shadow = 9
    end
    shadow = 5
    f()
    note(shared)
    note(declared)
    note(shadow)"""
    assert script.run(program(body)) == [2, 3, 5]


def test_lists_are_copied_on_assignment_and_when_passed(script: Recorder) -> None:
    body = """
    a = [1, 2]
    b = a
    b[0] = 9
    def change(l):
      l[1] = 7
      return l
    end
    c = change(a)
    note(a)
    note(b)
    note(c)"""
    assert script.run(program(body)) == [[1, 2], [9, 2], [1, 7]]


def test_a_variable_called_p_is_not_a_pose(script: Recorder) -> None:
    """The genuine control script has a function scale_pose(p, factor)."""
    body = "def scale(p, f):\n p[0] = p[0] * f\n return p\nend\nnote(scale(p[1,2,3,4,5,6], 10))"
    assert script.run(program(body)) == [[10, 2, 3, 4, 5, 6]]


def test_matrix_index_and_named_arguments(script: Recorder) -> None:
    assert script.run(program("m = [[1,2],[3,4]]\nm[1,0] = 8\nnote2(m[0,1], b=m[1,0])")) == [(2, 8)]


def test_default_parameters(script: Recorder) -> None:
    assert script.run(program("def f(a, b=5):\n return a + b\nend\nnote(f(1))\nnote(f(1, b=1))")) == [6, 2]


def test_one_sync_is_one_frame(script: Recorder) -> None:
    script.run(program("note(1)\nsync()\nnote(2)\nsync()\nnote(3)"), frames=2)
    assert script.notes == [1, 2]
    script.interpreter.frame()
    assert script.notes == [1, 2, 3]
    assert not script.interpreter.running


def test_functions_that_block_block_their_callers(script: Recorder) -> None:
    body = "def wait(n):\n i = 0\n while i < n:\n  i = i + 1\n  sync()\n end\n return n\nend\nnote(wait(3) + 1)"
    script.run(program(body), frames=3)
    assert script.notes == []
    script.interpreter.frame()
    assert script.notes == [4]


def test_threads_run_in_turn_until_killed(script: Recorder) -> None:
    body = """
    thread ticker(name):
      while True:
        note(name)
        sync()
      end
    end
    t = run ticker("a")
    sync()
    sync()
    kill t
    sync()
    sync()
    note("end")"""
    assert script.run(program(body)) == ["a", "a", "end"]


def test_join_waits_for_a_thread(script: Recorder) -> None:
    body = "thread t():\n sync()\n sync()\n note(1)\nend\nh = run t()\njoin h\nnote(2)"
    assert script.run(program(body)) == [1, 2]


def test_killing_what_is_no_thread_is_ignored(script: Recorder) -> None:
    assert script.run(program("h = 0\nkill h\nnote(1)")) == [1]


def test_a_thread_may_kill_itself(script: Recorder) -> None:
    body = "global h = 0\nthread t():\n note(1)\n kill h\n note(2)\nend\nh = run t()\nsync()\nsync()\nnote(3)"
    assert script.run(program(body)) == [1, 3]


def test_critical_sections_keep_other_threads_out_even_across_frames(script: Recorder) -> None:
    body = """
    thread other():
      while True:
        note("other")
        sync()
      end
    end
    enter_critical
    run other()
    note("in")
    sync()
    note("still in")
    exit_critical
    sync()"""
    assert script.run(program(body), frames=3)[:3] == ["in", "still in", "other"]


def test_the_program_ends_with_its_main_thread(script: Recorder) -> None:
    script.run(program("thread t():\n while True:\n  sync()\n  note(1)\n end\nend\nrun t()\nsync()"), frames=10)
    assert not script.interpreter.running
    assert len(script.notes) <= 1


def test_halt_ends_the_program_from_a_thread(script: Recorder) -> None:
    script.run(program("thread t():\n halt\nend\nrun t()\nwhile True:\n sync()\nend"))
    assert not script.interpreter.running


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a = [1,2]\nnote(a[5])", "line 3: list index out of range"),
        ("a = [1,2]\nnote(a[-1])", "list index -1"),
        ("def f():\n note(x)\nend\nf()\nx = 1", "variable 'x' has no value yet"),
        ("note(1 / 0)", "division by zero"),
        ("while True:\n a = 1\nend", "infinite loop"),
        ("def f(n):\n return f(n)\nend\nf(1)", "recursion"),
    ],
)
def test_run_time_errors_end_the_program_and_say_where(script: Recorder, body: str, message: str) -> None:
    script.run(program(body))
    assert not script.interpreter.running
    assert "run-time error" in script.last_log
    assert message in script.last_log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (program("unknown_function(1)"), "line 2: function 'unknown_function' is not defined"),
        (program("note(nothing)"), "line 2: variable 'nothing' is not defined"),
        (program("if True:\n note(1)"), "'end' is missing"),
        (program("a = = 1"), "expected a value"),
        (program("def f(a):\n return a\nend\nf(1, 2)"), "f() takes (a)"),
        (program("p[1,2,3] = 1"), "six numbers"),
        (program("note($)"), "unexpected character"),
    ],
)
def test_programs_that_cannot_run_are_refused_at_load(script: Recorder, text: str, message: str) -> None:
    assert not script.interpreter.upload(text)
    assert message in script.last_log
    assert not script.interpreter.running


def test_a_new_program_replaces_the_running_one(script: Recorder) -> None:
    script.run(program("while True:\n note(1)\n sync()\nend"), frames=2)
    script.run("def second():\n note(2)\nend\n", frames=3)
    assert script.notes == [1, 1, 2]
    assert not script.interpreter.running


def test_a_secondary_program_runs_beside_the_main_one(script: Recorder) -> None:
    script.run(program("while True:\n sync()\nend"), frames=1)
    assert script.run("sec light():\n note(5)\nend\n", frames=2) == [5]
    assert script.interpreter.running


def test_a_paused_program_stands_still(script: Recorder) -> None:
    script.run(program("while True:\n note(1)\n sync()\nend"), frames=2)
    script.interpreter.paused = True
    script.interpreter.frame()
    assert len(script.notes) == 2
    script.interpreter.paused = False
    script.interpreter.frame()
    assert len(script.notes) == 3


def test_loose_lines_are_programs_of_their_own(script: Recorder) -> None:
    assert script.run("note(3)\n", frames=1) == [3]


def test_programs_arrive_in_pieces_of_any_size() -> None:
    text = 'def a():\n  if True: # if end\n    note("end")\n  end\nend\nnote(1)\nsec b():\n  note(2)\nend\n'
    whole = ProgramSplitter().feed(text.encode())
    splitter = ProgramSplitter()
    pieces = [part for i in range(len(text)) for part in splitter.feed(text[i : i + 1].encode())]
    assert pieces == whole
    assert [part.splitlines()[0] for part in whole] == ["def a():", "note(1)", "sec b():"]


def test_unbalanced_blocks_are_syntax_errors() -> None:
    with pytest.raises(ScriptSyntaxError, match="without a block"):
        parse("note(1)\nend\n")
