"""What came out of an offline reinforcement, as a file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from prophrl_models.data.files import write_json

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class FlowResult:
    """The end of a flow.

    Attributes:
        accepted: there is a checkpoint that is better in imagination than the one it started from.
        message: the result in one line, or why there is none and what to change.
        checkpoint: folder of the best policy; empty without one.
        imagined_before, imagined_after: success in imagination on held-out starts, 0..1.
    """

    accepted: bool
    message: str
    checkpoint: str = ""
    imagined_before: float = 0.0
    imagined_after: float = 0.0


def write_result(folder: Path, result: FlowResult) -> None:
    """Keep a result."""
    write_json(folder / RESULT_FILE, asdict(result))


def is_finished(folder: Path) -> bool:
    """Whether reinforcement came to its end there; a flow that its check stopped can still go on, without gates."""
    return (folder / RESULT_FILE).is_file() and bool(read_result(folder).checkpoint)


def read_result(folder: Path) -> FlowResult:
    """The result of a finished flow.

    Raises:
        FileNotFoundError: the flow has not finished.
    """
    return FlowResult(**json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")))
