"""What the doctor found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: ``level`` is "ok", "warning" or "error"; ``action`` says what to do, "" when nothing."""

    topic: str
    level: str
    message: str
    action: str = ""
