"""Runs robot programs: threads as Python generators, resumed in turn, one ``yield`` = one 2 ms frame.

The controller calls ``Interpreter.frame()`` once a frame. A new upload replaces the running program; a secondary
program (``sec``) runs beside it and takes no robot time. A run-time error ends the program and lands in the log, as on
the real controller: the client sees that the program stopped.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Mapping
from typing import Any, NoReturn

from robot_bridge.twin.urscript_compiler import FILE_NAME, Compiled, compile_program
from robot_bridge.twin.urscript_parser import parse
from robot_bridge.twin.urscript_tree import ScriptSyntaxError
from robot_bridge.twin.urscript_values import List, Pose, copy_value

Frames = Generator[None, None, Any]
"""What a blocking script function returns: it yields once per frame it takes and returns its value."""

LOOP_BUDGET = 20_000
"""Loop passes one thread may make within a frame; more means a loop without sync(), which the controller ends."""
CACHED_PROGRAMS = 8


class ScriptError(RuntimeError):
    """A run-time error of a robot program."""


class _Killed(BaseException):
    """A thread killed itself; passes through the program's own code."""


class _Halted(BaseException):
    """The program executed ``halt``."""


class Thread:
    """One thread of a robot program; its handle in URScript."""

    __slots__ = ("alive", "generator", "name")

    def __init__(self, name: str, generator: Frames) -> None:
        self.name = name
        self.generator = generator
        self.alive = True


class Program:
    """One loaded program and its threads."""

    def __init__(self, compiled: Compiled, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.compiled = compiled
        self.budget = LOOP_BUDGET
        self.current: Thread | None = None
        self._critical: Thread | None = None
        namespace: dict[str, Any] = {}
        exec(compiled.code, namespace)
        main = namespace["program"](functions, self, List, Pose, copy_value)
        self.threads = [Thread(compiled.name, main())]

    @property
    def name(self) -> str:
        """The name after ``def``."""
        return self.compiled.name

    def frame(self) -> bool:
        """Resume every thread once; False when the program has ended.

        Raises:
            ScriptError: a run-time error, with the URScript line.
        """
        main, position = self.threads[0], 0
        while position < len(self.threads) and main.alive:
            thread = self.threads[position]
            position += 1
            if not thread.alive or (self._critical is not None and self._critical is not thread):
                continue
            self.current, self.budget = thread, LOOP_BUDGET
            try:
                next(thread.generator)
            except (StopIteration, _Killed):
                self._end(thread)
            except _Halted:
                return False
            except Exception as error:
                raise ScriptError(f"{self.name}, {self._line_of(error)}{_reason(error)}") from error
        self.current = None
        if not all(thread.alive for thread in self.threads):
            self.threads = [thread for thread in self.threads if thread.alive]
        return main.alive

    def close(self) -> None:
        """Kill all threads."""
        for thread in self.threads:
            thread.alive = False
            thread.generator.close()

    def _end(self, thread: Thread) -> None:
        thread.alive = False
        if self._critical is thread:
            self._critical = None

    def _line_of(self, error: BaseException) -> str:
        lines = []
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == FILE_NAME:
                lines.append(self.compiled.lines[traceback.tb_lineno - 1])
            traceback = traceback.tb_next
        return f"line {lines[-1]}: " if lines else ""

    # --- what compiled programs call ---

    def run(self, name: str, function: Callable[..., Frames], /, *arguments: Any, **named: Any) -> Thread:
        """Start a thread; it runs for the first time in this frame, after the present ones."""
        thread = Thread(name, function(*arguments, **named))
        self.threads.append(thread)
        return thread

    def kill(self, handle: Any) -> None:
        """Kill a thread; a variable that holds no thread (0) is ignored, as clients do that."""
        if not isinstance(handle, Thread):
            return
        self._end(handle)
        if handle is self.current:
            raise _Killed
        handle.generator.close()

    def join(self, handle: Any) -> Frames:
        """Wait until a thread has ended."""
        while isinstance(handle, Thread) and handle.alive:
            yield

    def enter_critical(self) -> None:
        """From here to ``exit_critical`` no other thread of the program runs."""
        self._critical = self.current

    def exit_critical(self) -> None:
        """End of the critical section."""
        self._critical = None

    def halt(self) -> NoReturn:
        """End the program."""
        raise _Halted

    def overrun(self) -> NoReturn:
        """Called by a loop that used up its budget."""
        raise ScriptError(f"infinite loop: {LOOP_BUDGET} passes within one frame; call sync() in the loop")

    @staticmethod
    def index(value: Any) -> int:
        """A list index: a whole number that is not negative."""
        if isinstance(value, bool) or int(value) != value or value < 0:
            raise ScriptError(f"list index {value!r} is not a whole number >= 0")
        return int(value)


def _reason(error: Exception) -> str:
    if isinstance(error, NameError):
        found = re.search(r"'v_(\w+)'", str(error))
        return f"variable {found.group(1)!r} has no value yet" if found else str(error)
    if isinstance(error, IndexError):
        return "list index out of range"
    return re.sub(r"\b[bfv]_(?=\w)", "", str(error)) or type(error).__name__


class Interpreter:
    """The controller's program slot.

    Args:
        functions: script functions by name.
        blocking: names of those that take robot time (they return ``Frames``).
        on_log: receives every message for the controller's log.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        blocking: frozenset[str],
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self._functions = functions
        self._blocking = {name: name in blocking for name in functions}
        self._cache: OrderedDict[str, Compiled] = OrderedDict()
        self._secondary: list[Program] = []
        self._running: Program | None = None
        self.program: Program | None = None
        self.paused = False
        self.log: deque[str] = deque(maxlen=200)
        self._on_log = on_log

    @property
    def running(self) -> bool:
        """Whether a main program is loaded and not ended (it may be paused)."""
        return self.program is not None

    @property
    def thread(self) -> Thread | None:
        """The thread that is executing now."""
        return self._running.current if self._running is not None else None

    def upload(self, text: str) -> bool:
        """Load and start a program; it replaces the running one unless it is secondary. False: it was refused."""
        try:
            compiled = self._compile(text)
        except ScriptSyntaxError as error:
            self.write_log(f"compile error: {error}")
            return False
        program = Program(compiled, self._functions)
        if compiled.secondary:
            self._secondary.append(program)
        else:
            self.stop("replaced by a new program")
            self.program, self.paused = program, False
        return True

    def stop(self, reason: str) -> None:
        """End the main program, if one runs."""
        if self.program is not None:
            self.write_log(f"program {self.program.name} stopped: {reason}")
            program, self.program = self.program, None
            program.close()
        self.paused = False

    def frame(self) -> None:
        """Run one frame of the secondary programs and of the main program."""
        for program in list(self._secondary):
            if not self._step(program):
                self._secondary.remove(program)
        if self.program is not None and not self.paused and not self._step(self.program):
            program, self.program = self.program, None
            if program is not None:
                program.close()

    def fail(self, reason: str) -> None:
        """End the main program with a run-time error (fault injection)."""
        self.stop(f"run-time error: {reason}")

    def write_log(self, text: str) -> None:
        """Add a line to the controller's log."""
        self.log.append(text)
        if self._on_log is not None:
            self._on_log(text)

    def _step(self, program: Program) -> bool:
        self._running = program
        try:
            return program.frame()
        except ScriptError as error:
            self.write_log(f"run-time error: {error}")
            return False
        finally:
            self._running = None

    def _compile(self, text: str) -> Compiled:
        if text in self._cache:
            self._cache.move_to_end(text)
        else:
            self._cache[text] = compile_program(parse(text), self._blocking)
            if len(self._cache) > CACHED_PROGRAMS:
                self._cache.popitem(last=False)
        return self._cache[text]


_BLOCK = re.compile(r"""\#[^\n]*|"[^"\n]*"|'[^'\n]*'|\b(?P<open>def|thread|sec|if|while)\b|\b(?P<close>end)\b""")


class ProgramSplitter:
    """Cuts the byte stream of a script port into programs: a ``def``/``sec`` ... ``end`` block, or a loose line."""

    def __init__(self) -> None:
        self._pending = ""
        self._lines: list[str] = []
        self._depth = 0

    def feed(self, data: bytes) -> list[str]:
        """Add received bytes; returns the programs that are complete now."""
        text = self._pending + data.decode("utf-8", errors="replace")
        *lines, self._pending = text.split("\n")
        programs: list[str] = []
        for line in lines:
            if not self._lines and (not line.strip() or line.lstrip().startswith("#")):
                continue
            self._lines.append(line)
            for found in _BLOCK.finditer(line):
                if found.group("open"):
                    self._depth += 1
                elif found.group("close"):
                    self._depth -= 1
            if self._depth <= 0:
                programs.append("\n".join(self._lines) + "\n")
                self._lines, self._depth = [], 0
        return programs
