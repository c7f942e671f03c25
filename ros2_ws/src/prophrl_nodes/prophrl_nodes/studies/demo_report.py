"""The demo's report: trials with their videos, timing, data quality, training curve and provenance in one page."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prophrl_models.data.dataset import Dataset
from prophrl_models.prophet.checkpoint import PROVENANCE
from prophrl_models.training.checkpoint import git_revision
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER
from prophrl_models.trials.plan import PlanKey, TrialPlan
from prophrl_models.trials.report import Curve, Machine, TrialReport, cards_of, write_report
from prophrl_models.trials.results import ResultLog, compare
from prophrl_nodes.studies.demo_reinforcement import FIRST
from prophrl_nodes.studies.trial_media import DESCRIBED, Measurements, trial_media
from robot_bridge.twin.tasks import get_task

VERSIONS = ("prophrl", "torch", "mujoco", "ur-rtde", "pyrealsense2", "dynamixel-sdk", "ros-rclpy")


def write_demo_report(folder: Path, task_id: str, timings_s: Mapping[str, float]) -> Path:
    """Write ``report.html``, ``report.json`` and ``videos/`` into a demo's folder.

    Raises:
        PlanError, ResultError, BagError, DatasetError: a stage's files are missing or damaged.
    """
    task = get_task(task_id)
    plan = TrialPlan.load(folder / "trials" / "plan.json")
    key = PlanKey.load(folder / "trials" / "key.json", plan)
    log = ResultLog(folder / "trials" / "trials.jsonl", plan)
    measured = Measurements()
    media = {}
    for result in log.results:
        if result.bag:
            bag = folder / "trials" / result.bag
            media[result.trial_id] = trial_media(bag, folder / "videos", result.trial_id, measured)
        if "wall_s" in result.timing and result.duration_s > 0:
            measured.add("wall seconds per robot second", result.timing["wall_s"] / result.duration_s)
    dataset = Dataset(folder / "dataset")
    cards = cards_of(log, key, media, task.primary.name)
    policies = sorted(set(key.policies.values()))
    best = next((name for name in policies if name != FIRST), FIRST)
    first = next((media[card.trial_id] for card in cards if card.trial_id in media), None)
    report = TrialReport(
        task=task.id,
        instruction=task.instruction,
        policy=best,
        trials=cards,
        created_at=time.strftime("%d %B %Y, %H:%M"),
        machine=Machine.here(),
        provenance=_provenance(folder, dataset),
        scene_jpeg=first.poster.jpeg if first else None,
        timing=measured.rows(DESCRIBED),
        quality=dataset.quality(),
        curves=_curves(folder / "training" / "log.jsonl"),
        comparison=compare(log, key, FIRST, best) if len(policies) == 2 else None,
        note=_note(task.success_words, timings_s),
    )
    return write_report(report, folder)


def _note(success_words: str, timings_s: Mapping[str, float]) -> str:
    spent = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in timings_s.items() if seconds >= 1.0)
    return f"Success means: {success_words}" + (f" Time spent: {spent}." if spent else "")


def _provenance(folder: Path, dataset: Dataset) -> dict[str, str]:
    checkpoint = json.loads((folder / "training" / "policy" / "provenance.json").read_text())
    calibration_ids = sorted({episode.metadata.calibration_id for episode in dataset})
    said = [f"{name} {value}" for name, value in checkpoint.items() if isinstance(value, str | int)]
    facts = {
        "dataset": f"{len(dataset)} episodes, {dataset.content_hash[:12]}",
        "checkpoint": ", ".join(said),
        **_reinforcement(folder),
        "calibration": ", ".join(calibration_ids) or "none",
        "git revision": git_revision(),
    }
    for name in VERSIONS:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def _reinforcement(folder: Path) -> dict[str, str]:
    """Which step of a reinforcement was tried, and where its own page is; nothing where there was none."""
    said = {}
    for file in sorted(folder.glob(f"reinforcement/rl_*/{CHECKPOINT_FOLDER}/{PROVENANCE}")):
        kept, page = json.loads(file.read_text(encoding="utf-8"))["step"], file.parents[1] / "report.html"
        said["reinforcement"] = f"the policy after step {kept}, the best in imagination; {page.relative_to(folder)}"
    return said


def _curves(log: Path) -> list[Curve]:
    """Training loss over steps; empty when the log is not there."""
    if not log.is_file():
        return []
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    curves = []
    for name in (key for key in (rows[0] if rows else {}) if "loss" in key):
        points = [(row["step"], row[name]) for row in rows if row.get(name, 0) > 0]
        curves.append(Curve(name, [step for step, _ in points], [value for _, value in points]))
    return curves
