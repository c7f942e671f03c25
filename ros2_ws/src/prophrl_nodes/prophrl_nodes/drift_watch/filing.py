"""Puts a verdict beside its episode, which the recorder may be moving to its final folder at this very moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from prophrl_nodes.drift_watch.verdict import DRIFT_FILE, DriftVerdict
from prophrl_nodes.recorder.episode import INCOMPLETE, EpisodeError, open_episode
from prophrl_nodes.recorder.metadata import write_atomically

_POLL_S = 0.1


def find_episode(root: Path, episode_id: str) -> Path | None:
    """Folder of an episode under the recorder's output, wherever it is filed; None when it is not there."""
    return next((folder for folder in sorted(root.glob(f"*/{episode_id}")) if folder.is_dir()), None)


def wait_filed(root: Path, episode_id: str, timeout_s: float, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Wait until somebody has decided about an episode; True when it was accepted."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        folder = find_episode(root, episode_id)
        if folder is not None and folder.parent.name != INCOMPLETE:
            try:
                return bool(open_episode(folder).record.get("accepted"))
            except EpisodeError:
                return False
        if time.monotonic() > deadline_s or stopping():
            return False
        time.sleep(_POLL_S)


def write_verdict(root: Path, verdict: DriftVerdict) -> Path | None:
    """Write ``drift.json`` into the episode's folder in one step; the file, None when the episode is not there.

    Raises:
        OSError: the disk is full or may not be written.
    """
    text = json.dumps(verdict.as_dict(), indent=2, ensure_ascii=False) + "\n"
    for _ in range(5):
        folder = find_episode(root, verdict.episode_id)
        if folder is None:
            return None
        try:
            write_atomically(folder / DRIFT_FILE, text)
        except FileNotFoundError:  # moved between the two steps; look where it is now
            continue
        return folder / DRIFT_FILE
    return None
