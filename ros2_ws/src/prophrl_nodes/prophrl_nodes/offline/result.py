"""What came out of an offline reinforcement, as a file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prophrl_models.data.files import write_json

RESULT_FILE = "result.json"
OUTCOME = ("accepted", "message", "checkpoint", "imagined_before", "imagined_after")
"""Fields of a result that do not speak of other rounds; those that the ROS action has."""
OWN = (*OUTCOME, "stopped")
"""All fields of a result that do not speak of other rounds."""


@dataclass(frozen=True)
class FlowResult:
    """The end of a flow.

    Attributes:
        accepted: there is a checkpoint that is better in imagination than the one it started from.
        message: the result in one line, or why there is none and what to change.
        checkpoint: folder of the best policy; empty without one.
        imagined_before, imagined_after: success in imagination on held-out starts, 0..1.
        stopped: why reinforcement ended before its last step; empty where it did not. The message has it, too.
        round: 1, or how many there were before it plus one.
        after: folder of the round before; empty in the first.
        known_bags: bags that earlier rounds had already and that were left out.
        reality: ``reality.compare``: what the round before promised against what the new bags say; empty where they
            hold no trials.
        earlier: of each earlier round, oldest first: round, folder, imagined_before, imagined_after, and ``reality`` as
            the round after it found it.
    """

    accepted: bool
    message: str
    checkpoint: str = ""
    imagined_before: float = 0.0
    imagined_after: float = 0.0
    stopped: str = field(default="", kw_only=True)
    round: int = 1
    after: str = ""
    known_bags: int = 0
    reality: Mapping[str, Any] = field(default_factory=dict)
    earlier: Sequence[Mapping[str, Any]] = ()


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
    raw = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    return FlowResult(**{**raw, "earlier": tuple(raw.get("earlier", ()))})
