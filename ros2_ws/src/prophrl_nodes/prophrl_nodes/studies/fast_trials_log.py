"""Finished trials on disk, one JSON line each: written when a trial is over, found again by what it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TrialLogError(ValueError):
    """A log that cannot be read; the message names the line."""


class TrialLog:
    """Trials in a file that only grows.

    A last line that was cut off by a crash is dropped; everything before it is kept.

    Raises:
        TrialLogError: another line is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: dict[str, dict[str, Any]] = {}
        if self.path.exists():
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._known[key] = json.loads(json.dumps(trial))

    def _read(self) -> None:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["trial"]
            except (ValueError, KeyError, TypeError) as error:
                raise TrialLogError(
                    f"{self.path} line {number} is no trial ({error!r}); delete the line or the file"
                ) from error
        if len(whole) < len(raw):
            os.truncate(self.path, len(whole))


def _key(checkpoint_id: str, settings: Mapping[str, Any], index: int) -> str:
    said = json.dumps([checkpoint_id, dict(settings), index], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
