"""Where episodes live on disk and what is written beside each bag.

    <root>/incomplete/<episode>/     while it is being recorded, and until somebody decides
    <root>/<task>/<episode>/         accepted
    <root>/discarded/<episode>/      refused, and kept: nothing is ever deleted

Each step is one atomic rename within one file system. ``episode.json`` is written when the episode starts and
again when it ends, so that even a killed recording knows its task, its operator and its calibration.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from calibration.storage import CalibrationFileError, parse
from prophrl_models.data.files import sync_folder
from prophrl_nodes.recorder.metadata import write_atomically

FORMAT = "prophrl-episode/1"
INCOMPLETE = "incomplete"
DISCARDED = "discarded"
CALIBRATION = "calibration.yaml"
OUTCOMES = ("success", "failure", "unknown")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class EpisodeError(ValueError):
    """An episode that cannot be started or filed; the message names the value and the next action."""


class DiskFullError(EpisodeError):
    """Too little space left to record; names the folder, the space and the reserve."""


@dataclass(frozen=True)
class EpisodeInfo:
    """What is known before the first message: who does what, where, with which calibration."""

    task: str
    instruction: str = ""
    operator: str = ""
    episode_id: str = ""
    cell: str = ""
    placement: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    calibration_file: str = ""


@dataclass
class EpisodeFolder:
    """One episode's folder and the content of its ``episode.json``."""

    path: Path
    record: dict[str, Any]

    @property
    def episode_id(self) -> str:
        """The episode's name, also the folder's."""
        return str(self.record["episode_id"])

    @property
    def calibration(self) -> str:
        """Text of the calibration that was in force when the episode began; empty when there was none."""
        file = self.path / CALIBRATION
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def save(self) -> None:
        """Write ``episode.json`` atomically."""
        write_atomically(self.path / "episode.json", json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")


class EpisodeStore:
    """The folder under which all bags of a cell are kept."""

    def __init__(self, root: Path, reserve_bytes: int) -> None:
        """Use (and create) ``root``; recording needs more than ``reserve_bytes`` of free space there."""
        self.root = root
        self.reserve_bytes = reserve_bytes
        root.mkdir(parents=True, exist_ok=True)

    def free_bytes(self) -> int:
        """Space left for an ordinary user on the bags' file system."""
        return shutil.disk_usage(self.root).free

    def check_space(self) -> None:
        """Refuse when the disk is nearly full.

        Raises:
            DiskFullError: less than the reserve is left.
        """
        free = self.free_bytes()
        if free < self.reserve_bytes:
            raise DiskFullError(
                f"only {free / 1e9:.1f} GB left for {self.root}, recording keeps {self.reserve_bytes / 1e9:.1f} GB "
                f"free; move old episodes away, or run: prophrl bag compress {self.root}"
            )

    def start(self, info: EpisodeInfo) -> EpisodeFolder:
        """Make the folder of a new episode under ``incomplete/`` and write what is known so far.

        Raises:
            DiskFullError: disk nearly full.
            EpisodeError: unusable task or episode name, the episode exists already, or a calibration that is not
                what it says it is.
        """
        self.check_space()
        task = _checked_name("task", info.task)
        if task in (INCOMPLETE, DISCARDED):
            raise EpisodeError(f"a task cannot be called {task!r}: that folder has another meaning; rename the task")
        now = datetime.now(timezone.utc)
        episode_id = info.episode_id or f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{task}"
        _checked_name("episode_id", episode_id)
        for existing in (INCOMPLETE, task, DISCARDED):
            if (self.root / existing / episode_id).exists():
                raise EpisodeError(
                    f"episode {episode_id!r} exists already in {self.root / existing}; leave episode_id empty to have "
                    "one made, or choose another"
                )
        calibration, calibration_id = _read_calibration(info.calibration_file)
        path = self.root / INCOMPLETE / episode_id
        path.mkdir(parents=True)
        if calibration:
            (path / CALIBRATION).write_bytes(calibration)
        record: dict[str, Any] = {
            "format": FORMAT,
            **asdict(info),
            "episode_id": episode_id,
            "calibration_id": calibration_id,
            "git_revision": git_revision(),
            "software_version": version("prophrl_nodes"),
            "started_at": now.isoformat(timespec="milliseconds"),
            "start_ns": time.time_ns(),
            "end_ns": None,
            "duration_s": None,
            "state": "recording",
            "stop_reason": "",
            "accepted": None,
            "outcome": "unknown",
            "note": "",
            "messages": 0,
            "bytes": 0,
            "topics": {},
            "missing_topics": [],
        }
        folder = EpisodeFolder(path, record)
        folder.save()
        sync_folder(path.parent)
        return folder

    def accept(self, folder: EpisodeFolder, outcome: str, note: str = "") -> Path:
        """File an episode under its task; returns the new folder.

        Raises:
            EpisodeError: unknown outcome.
        """
        return self._file(folder, str(folder.record["task"]), outcome, note)

    def discard(self, folder: EpisodeFolder, outcome: str, note: str = "") -> Path:
        """Put an episode aside under ``discarded/``; returns the new folder.

        Raises:
            EpisodeError: unknown outcome.
        """
        return self._file(folder, DISCARDED, outcome, note)

    def _file(self, folder: EpisodeFolder, under: str, outcome: str, note: str) -> Path:
        check_outcome(outcome)
        target = self.root / under / folder.path.name
        if target.exists():
            raise EpisodeError(f"{target} exists already; move it away first, the episode stays in {folder.path}")
        folder.record.update(accepted=under != DISCARDED, outcome=outcome, note=note)
        folder.save()
        target.parent.mkdir(exist_ok=True)
        folder.path.rename(target)
        sync_folder(target.parent)
        sync_folder(folder.path.parent)
        folder.path = target
        return target


def check_outcome(outcome: str) -> None:
    """Refuse an outcome that does not exist.

    Raises:
        EpisodeError: names the outcome and the valid ones.
    """
    if outcome not in OUTCOMES:
        raise EpisodeError(f"unknown outcome {outcome!r}; choose one of {', '.join(OUTCOMES)}")


def open_episode(path: Path) -> EpisodeFolder:
    """Read an episode's folder.

    Raises:
        EpisodeError: no folder, or no readable ``episode.json`` in it.
    """
    file = path / "episode.json"
    if not file.is_file():
        raise EpisodeError(f"{path} holds no episode.json; expected the folder of one recorded episode")
    try:
        return EpisodeFolder(path, json.loads(file.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise EpisodeError(f"{file} is not valid JSON ({error}); run: prophrl bag recover {path}") from error


@lru_cache(maxsize=1)
def git_revision() -> str:
    """Revision of the source this code runs from, with "+dirty" when changed; "" outside a checkout."""
    options = ["--always", "--abbrev=40", "--dirty=+dirty", "--exclude=*"]
    command = ["git", "-C", str(Path(__file__).parent), "describe", *options]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def _read_calibration(file: str) -> tuple[bytes, str]:
    """Content of the calibration in force and its id: the one it names, or a hash of the content.

    A calibration in our own format must have the content its id stands for: an episode with the id of one calibration
    and the numbers of another would mislead whoever trains on it.
    """
    if not file:
        return b"", ""
    try:
        content = Path(file).read_bytes()
        document = yaml.safe_load(content)
    except OSError as error:
        raise EpisodeError(
            f"cannot read the camera calibration {file}: {error.strerror}; start the camera (the twin writes this "
            "file) or correct camera.calibration_file in the cell file"
        ) from error
    except yaml.YAMLError as error:
        raise EpisodeError(f"the camera calibration {file} is not valid YAML: {error}") from error
    named = document.get("id") if isinstance(document, Mapping) else None
    if isinstance(document, Mapping) and str(document.get("format", "")).startswith("prophrl-"):
        try:
            parse(content, file)
        except CalibrationFileError as error:
            raise EpisodeError(f"nothing is recorded with a wrong calibration: {error}") from error
    return content, str(named or "sha256-" + hashlib.sha256(content).hexdigest()[:16])


def _checked_name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise EpisodeError(f"{what} {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
    return name
