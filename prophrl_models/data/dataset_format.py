"""What a dataset folder looks like, and the hashes that tie it together.

dataset.json                 header, content hash, one row per episode, what was left out and why
normalisation.json           statistics of state and action, tied to the content hash
episodes/000000/episode.json      metadata, quality report, hashes
                steps.npz         state_T7 action_T7 stamp_ns_T valid_T moving_T <stream>_stamp_ns_T
                color_T240x320x3.npy
                final.npz         image_HW3 state_7 stamp_ns: the observation after the last action
                depth_T240x320.npy  only with depth; then steps.npz has depth_stamp_ns_T depth_valid_T too and final.npz
                                  depth_HW depth_stamp_ns depth_valid
                calibration.yaml  the camera calibration in force, when the bag carried it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calibration.poses import ActionConvention
from prophrl_models.data.convert import MotionThreshold
from prophrl_models.data.depth import DepthSpec
from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH, WHOLE
from prophrl_models.data.quality import QualityRow
from prophrl_models.data.synchronise import SyncSpec

FORMAT, VERSION = "prophrl-dataset", 1
DATASET_FILE, EPISODE_FILE = "dataset.json", "episode.json"
EPISODES, COLOR_FILE, STEPS_FILE, FINAL_FILE = "episodes", "color_T240x320x3.npy", "steps.npz", "final.npz"
DEPTH_FILE = "depth_T240x320.npy"


class DatasetError(ValueError):
    """A dataset that cannot be used or written; the message says what differs and what to do."""


@dataclass(frozen=True)
class DatasetHeader:
    """How every episode of a dataset was made: two datasets with equal headers can be trained on together."""

    convention: ActionConvention = ActionConvention.ABSOLUTE_POSE_DIFFERENCE
    sync: SyncSpec = field(default_factory=SyncSpec)
    motion: MotionThreshold = field(default_factory=MotionThreshold)
    depth: DepthSpec | None = None
    """How depth was put beside colour; None when the episodes have none."""

    def to_json(self) -> dict[str, Any]:
        header: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "convention": self.convention.name,
            "control_rate_hz": self.sync.control_rate_hz,
            "sync": self.sync.to_json(),
            "motion": asdict(self.motion),
            "image": {"height": POLICY_HEIGHT, "width": POLICY_WIDTH, "colour": self._colour()},
            "state_names": list(STATE_NAMES),
            "action_names": list(ACTION_NAMES),
        }
        if self.depth is not None:  # absent otherwise, so that datasets without depth keep their content hash
            header["depth"] = {"unit": "millimetre, uint16, 0 = not measured", **asdict(self.depth)}
        return header

    def _colour(self) -> str:
        region = self.sync.image_region
        return "RGB uint8, centred 4:3 crop" + ("" if region == WHOLE else f", {region} (left, top, size) of it")

    @staticmethod
    def from_json(raw: Mapping[str, Any], where: Path) -> DatasetHeader:
        """Inverse of ``to_json``.

        Raises:
            DatasetError: another format or version, other channels, or no valid action convention.
        """
        if raw.get("format") != FORMAT or raw.get("version") != VERSION:
            raise DatasetError(
                f"{where} has format {raw.get('format')!r} version {raw.get('version')!r}, this program reads "
                f"{FORMAT!r} version {VERSION}; build the dataset again from its bags"
            )
        names = [convention.name for convention in ActionConvention]
        if raw.get("convention") not in names:
            raise DatasetError(
                f"{where}: action convention is {raw.get('convention')!r}, it must be one of {', '.join(names)}; "
                "actions without a convention have no meaning, build the dataset again"
            )
        if raw.get("state_names") != list(STATE_NAMES) or raw.get("action_names") != list(ACTION_NAMES):
            raise DatasetError(
                f"{where} has state {raw.get('state_names')} and action {raw.get('action_names')}, expected "
                f"{list(STATE_NAMES)} and {list(ACTION_NAMES)}; build the dataset again"
            )
        try:
            sync, motion = SyncSpec.from_json(raw["sync"]), MotionThreshold(**raw["motion"])
            depth = DepthSpec(float(raw["depth"]["max_apart_s"])) if "depth" in raw else None
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: damaged header: {error}; build the dataset again") from error
        return DatasetHeader(ActionConvention[raw["convention"]], sync, motion, depth)


@dataclass(frozen=True)
class EpisodeRow:
    """One row of the table in ``dataset.json``."""

    index: int
    sha256: str
    source_id: str
    source: str
    task: str
    instruction: str
    calibration_id: str
    valid_steps: int
    quality: QualityRow

    @property
    def episode_id(self) -> str:
        return self.quality.episode_id

    @property
    def outcome(self) -> str:
        return self.quality.outcome

    @property
    def steps(self) -> int:
        return self.quality.steps

    @property
    def folder(self) -> str:
        return f"{EPISODES}/{self.index:06d}"

    @staticmethod
    def of(index: int, record: Mapping[str, Any]) -> EpisodeRow:
        """The row of an ``episode.json``."""
        metadata = record["metadata"]
        return EpisodeRow(
            index=index,
            sha256=str(record["sha256"]),
            source_id=str(record["source_id"]),
            source=str(record["source"]),
            task=str(metadata["task"]),
            instruction=str(metadata["instruction"]),
            calibration_id=str(metadata["calibration_id"]),
            valid_steps=int(record["valid_steps"]),
            quality=QualityRow.of(metadata, int(record["steps"]), float(record["duration_s"]), record["quality"]),
        )

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> EpisodeRow:
        return EpisodeRow(**{**raw, "quality": QualityRow(**raw["quality"])})


def content_hash(header: DatasetHeader, rows: Sequence[EpisodeRow]) -> str:
    """Hash of everything a training run sees: how episodes were made, and their content in order."""
    return json_sha256({"header": header.to_json(), "episodes": [row.sha256 for row in rows]})


def record_sha256(record: Mapping[str, Any]) -> str:
    """Hash of an ``episode.json`` without its own hash; it covers the arrays through their hashes."""
    return json_sha256({key: value for key, value in record.items() if key != "sha256"})


def json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def is_complete(dataset: Path) -> bool:
    """Whether a dataset folder is there and written to its end."""
    file = dataset / DATASET_FILE
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("complete"))
