"""The training log: one JSON line for every few steps, and the same numbers for TensorBoard where asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prophrl_models.training.checkpoint import write_atomically

LOG_FILE = "log.jsonl"
BOARD_FOLDER = "tensorboard"


class TrainingLog:
    """Appends to ``log.jsonl``, and to event files in ``tensorboard/`` when ``tensorboard`` is set."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.file = folder / LOG_FILE
        self._board_folder = folder / BOARD_FOLDER if tensorboard else None
        self._board: Any = None
        self._purge_step: int | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step, eight significant digits each."""
        line = {"step": step, **{name: float(f"{value:.8g}") for name, value in values.items()}}
        with open(self.file, "a") as log:
            log.write(json.dumps(line) + "\n")
        board = self._open_board()
        if board is not None:
            for name, value in values.items():
                board.add_scalar(name, value, step)
            board.flush()

    def trim(self, step: int) -> None:
        """Drop what was written for later steps; they will be repeated. A line that a kill cut short goes too."""
        self._purge_step = step + 1
        if not self.file.is_file():
            return
        steps = [(line, _step(line)) for line in self.file.read_text().splitlines()]
        kept = [line for line, of in steps if of is not None and of <= step]
        write_atomically(self.file, lambda path: path.write_text("".join(line + "\n" for line in kept)))

    def close(self) -> None:
        """Finish the event file."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _open_board(self) -> Any:
        if self._board is None and self._board_folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._board_folder), purge_step=self._purge_step)  # type: ignore[no-untyped-call]
        return self._board


def _step(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except json.JSONDecodeError:
        return None
