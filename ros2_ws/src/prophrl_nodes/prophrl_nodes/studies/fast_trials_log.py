"""Finished trials on disk, one JSON line each: written when a trial is over, found again by what it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prophrl_models.data.lines import LineError, append_line, read_lines


class TrialLog:
    """Trials in a file that only grows.

    Raises:
        LineError: a line is damaged (half a line at the end, of a program that died, is no damage).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: dict[str, dict[str, Any]] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, checkpoint_id: str, settings: Mapping[str, Any], index: int) -> dict[str, Any] | None:
        """The trial of this checkpoint, under these settings, on this placement; None if it was not run yet."""
        return self._known.get(_key(checkpoint_id, settings, index))

    def add(
        self, checkpoint_id: str, settings: Mapping[str, Any], placement: Mapping[str, Any], trial: Mapping[str, Any]
    ) -> None:
        """Keep a trial; it is on the disk when this returns."""
        key = _key(checkpoint_id, settings, trial["index"])
        line = {
            "key": key,
            "checkpoint_id": checkpoint_id,
            "settings": settings,
            "placement": placement,
            "trial": trial,
        }
        append_line(self.path, line)
        self._known[key] = json.loads(json.dumps(trial))

    def _read(self) -> None:
        for number, entry in read_lines(self.path):
            try:
                self._known[entry["key"]] = entry["trial"]
            except KeyError as error:
                raise LineError(self.path, number, f"it has no {error}") from error


def _key(checkpoint_id: str, settings: Mapping[str, Any], index: int) -> str:
    said = json.dumps([checkpoint_id, dict(settings), index], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
