"""What the parts of a gain study left behind, read from their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prophrl_models.data.lines import LineError
from prophrl_models.prophet.checkpoint import PROVENANCE
from prophrl_models.rl.ablation_result import ArmRun
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER
from prophrl_models.trials.plan import PlanError, PlanKey, TrialPlan
from prophrl_models.trials.results import Comparison, ResultError, ResultLog, compare, policy_outcomes
from prophrl_models.trials.statistics import SuccessRate

ENACTED = "enacted.json"


def arm_run(folder: Path, seed: int, trials: tuple[bool, ...], out: Path) -> ArmRun:
    """A finished reinforcement in ``folder``, with its looks in imagination and these trials."""
    record = json.loads((folder / CHECKPOINT_FOLDER / PROVENANCE).read_text(encoding="utf-8"))
    looks = {look["step"]: look for look in record.get("evaluations", [])}

    def rate(step: int) -> SuccessRate | None:
        look = looks.get(step)
        return None if look is None else SuccessRate(round(look["success"] * look["rollouts"]), int(look["rollouts"]))

    return ArmRun(seed, rate(record["step"]), rate(0), int(record["step"]), trials, folder.relative_to(out).as_posix())


def verdicts(folder: Path) -> dict[str, Any]:
    """What ``prophrl rl enact`` summed up; empty where it was not run."""
    file = folder / ENACTED
    return dict(json.loads(file.read_text(encoding="utf-8"))["summary"]) if file.is_file() else {}


def log_of(folder: Path) -> ResultLog | None:
    """The log of a folder's plan; None where there is none yet."""
    try:
        return ResultLog(folder / "trials.jsonl", TrialPlan.load(folder / "plan.json"))
    except (PlanError, ResultError, LineError):
        return None  # not there yet; the trial node says so if it is damaged


def robot_result(
    folder: Path, first: str, second: str
) -> tuple[Comparison | None, tuple[SuccessRate, SuccessRate] | None]:
    """Two policies of a blinded plan in a folder, compared; None before its last trial."""
    log = log_of(folder)
    if log is None or log.next_trial() is not None:
        return None, None
    key = PlanKey.load(folder / "key.json", log.plan)
    rates = {outcome.policy: outcome.rate for outcome in policy_outcomes(log, key)}
    return compare(log, key, first, second), (rates[first], rates[second])
