"""How the flow tells others where it is: one small JSON file in its folder, replaced whenever something changes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from prophrl_models.data.files import write_json

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class FlowProgress:
    """Where a flow is.

    Attributes:
        phase: name of the stage at work; "done" or "failed" at the end.
        step, steps: within the phase; 0 where it has no countable steps.
        elapsed_s: since this run of the flow began.
        message: what is being done, or the result, in one line.
    """

    phase: str
    step: int = 0
    steps: int = 0
    elapsed_s: float = 0.0
    message: str = ""


class ProgressFile:
    """Writes the progress of one run; reading it never sees half a file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / PROGRESS_FILE
        self._began_s = time.monotonic()
        self._last: FlowProgress | None = None

    def say(self, phase: str, step: int = 0, steps: int = 0, message: str = "") -> FlowProgress:
        """Write where the flow is, if that is news; returns it."""
        elapsed_s = round(time.monotonic() - self._began_s, 1)
        now = FlowProgress(phase, step, steps, elapsed_s, message)
        last = self._last
        if last is None or (last.phase, last.step, last.steps, last.message) != (phase, step, steps, message):
            write_json(self._file, asdict(now))
            self._last = now
        return now


def read_progress(folder: Path) -> FlowProgress | None:
    """The newest word of a flow; None where none has begun."""
    file = folder / PROGRESS_FILE
    return FlowProgress(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
