"""An ablation of reinforcement as jobs: one run for each arm and seed, and trials of its policy on the digital twin.

OUT/study.json               what the study is about; a call with other settings is refused
OUT/settings/ARM.yaml        what an arm runs with
OUT/start/twin.json          trials of the policy that all start from
OUT/runs/ARM/seed_0/         the run: policy/ is its result, report.html its own report, twin.json its trials
OUT/logs/                    what the commands said
OUT/report.html, .json       written anew whenever a run is measured

Every trial is a function of checkpoint, settings and number: trials of all policies are of the same placements with
the same noise, whichever command ran them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from prophrl_models.data.dataset import Dataset
from prophrl_models.rl.ablation_plan import START, AblationPlan, arm_settings
from prophrl_models.rl.ablation_report import write_rl_ablation_report
from prophrl_models.rl.ablation_result import IMAGINED, TWIN, ArmOutcome, ArmRun, RlAblation
from prophrl_models.rl.run_state import RESUME_FILE
from prophrl_models.rl.settings import RlSettings
from prophrl_models.serving.engine import id_of
from prophrl_models.training.checkpoint import read_checkpoint
from prophrl_models.training.overrides import plain_settings
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER
from prophrl_models.trials.statistics import SuccessRate
from prophrl_nodes.offline.stages import last_step
from prophrl_nodes.studies.ablation_jobs import Job, claim_study, prophrl
from prophrl_nodes.studies.fast_summary import read_outcomes
from prophrl_nodes.studies.fast_trials import Contender, StudyError, TrialSettings, identified

TWIN_FILE = "twin.json"


@dataclass(frozen=True)
class PolicyStudy:
    """What is asked for.

    Attributes:
        datasets: start states.
        out: folder of the study.
        plan: arms, seeds and what they share.
        preset: settings that the arms change.
    """

    datasets: tuple[Path, ...]
    out: Path
    plan: AblationPlan
    preset: RlSettings

    @property
    def policy(self) -> Path:
        """The policy that all start from."""
        return Path(self.plan.common.policy)

    @property
    def settings(self) -> dict[str, RlSettings]:
        return arm_settings(self.plan, self.preset)

    @property
    def trials(self) -> TrialSettings | None:
        """Trials on the twin; None where the plan has none."""
        twin = self.plan.twin
        return TrialSettings(twin.task, twin.trials, twin.execute, seed=twin.seed) if twin else None

    def run_folder(self, arm: str, seed: int) -> Path:
        return self.out / "runs" / arm / f"seed_{seed}"

    def settings_file(self, arm: str) -> Path:
        return self.out / "settings" / f"{arm}.yaml"


def prepare(study: PolicyStudy) -> None:
    """Check everything that can be checked at once, claim the folder and write the arms' settings.

    Raises:
        PlanError, TrainingError: see ``ablation_plan``.
        StudyError: the policy cannot be tried on the plan's task.
        CheckpointError, DatasetError: policy or dataset cannot be read.
        StudyChanged: the folder belongs to another study.
    """
    study.plan.check()
    settings, trials = study.settings, study.trials
    if trials is not None:
        identified([Contender(START, study.policy)], trials)
    world = Path(study.plan.common.world) / "provenance.json"
    if not world.is_file():
        raise StudyError(f"{study.plan.common.world} is no world model's checkpoint folder")
    plain = {name: plain_settings(config) for name, config in settings.items()}
    facts: dict[str, Any] = {
        "kind": "ablation of reinforcement",
        "datasets": [Dataset(folder).content_hash for folder in study.datasets],
        "policy": id_of(read_checkpoint(study.policy).provenance),
        "world": id_of(json.loads(world.read_text(encoding="utf-8"))),
        "judge": study.plan.common.judge,
        "instructions": list(study.plan.common.instructions),
        "world_steps": study.plan.common.world_steps,
        "trials": asdict(trials) if trials else None,
        "settings": plain,
        "baseline": study.plan.baseline,
        "seeds": list(study.plan.seeds),
    }
    claim_study(study.out, facts, may_grow=("seeds", "trials", "baseline"), arms="settings")
    for name, values in plain.items():
        file = study.settings_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def jobs_of(study: PolicyStudy) -> list[Job]:
    """All jobs: trials of the start policy, then every arm with the first seed, with the second, and so on."""
    jobs = [] if study.trials is None else [_trial_job(study, START, study.policy, study.out / START / TWIN_FILE)]
    for seed in study.plan.seeds:
        for arm in study.plan.arms:
            folder = study.run_folder(arm.name, seed)
            jobs.append(_run_job(study, arm.name, seed))
            if study.trials is not None:
                name = f"{arm.name}, seed {seed}"
                jobs.append(_trial_job(study, name, folder / CHECKPOINT_FOLDER, folder / TWIN_FILE))
    return jobs


def result_of(study: PolicyStudy, failed: Mapping[str, str]) -> RlAblation:
    """What is measured so far.

    Raises:
        PlanError: nothing.
    """
    found, missing = [], []
    start = outcomes_of(study, study.policy, study.out / START / TWIN_FILE) if study.trials else ()
    for arm in study.plan.arms:
        runs = []
        for seed in study.plan.seeds:
            run = _measured(study, arm.name, seed) if start is not None else None
            if run is None:
                missing.append(f"{arm.name}, seed {seed}")
            else:
                runs.append(run)
        if runs:
            found.append(ArmOutcome(arm.name, arm.meaning, arm.changes, tuple(runs)))
    measure = TWIN if study.trials else IMAGINED
    return RlAblation(
        tuple(found), study.plan.baseline, measure, start or (), study.plan.seeds, tuple(missing), dict(failed)
    )


def write_result(study: PolicyStudy, failed: Mapping[str, str]) -> Path:
    """Write the page of what is measured so far; errors as ``result_of``."""
    common, trials = study.plan.common, study.trials
    provenance = {
        "starts": ", ".join(f"{f.name} {Dataset(f).content_hash[:16]}" for f in study.datasets),
        "policy": f"{study.policy}, checkpoint {id_of(read_checkpoint(study.policy).provenance)[:16]}",
        "world model": common.world,
        "judge": common.judge,
        "settings": f"{common.preset}, {next(iter(study.settings.values())).steps} steps"
        + "".join(f", {name} {value}" for name, value in study.plan.settings.items()),
        "trials": ", ".join(f"{name} {value}" for name, value in asdict(trials).items()) if trials else "none",
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return write_rl_ablation_report(result_of(study, failed), study.out, provenance=provenance, created_at=now)


def is_trained(folder: Path) -> bool:
    """Whether a run's result is written and nothing is left to resume."""
    return (folder / CHECKPOINT_FOLDER / "provenance.json").is_file() and not (folder / RESUME_FILE).exists()


def outcomes_of(study: PolicyStudy, policy: Path, file: Path) -> tuple[bool, ...] | None:
    """Outcomes of the trials the plan asks for, of exactly this checkpoint; None where they are not there."""
    trials = study.trials
    if trials is None or not file.is_file() or not (policy / "provenance.json").is_file():
        return None
    if json.loads(file.read_text(encoding="utf-8"))["settings"] != asdict(trials):
        return None
    of_this = id_of(json.loads((policy / "provenance.json").read_text(encoding="utf-8")))
    found = read_outcomes(file, trials.task).get(of_this)
    return tuple(found) if found is not None and len(found) == trials.trials else None


def _measured(study: PolicyStudy, arm: str, seed: int) -> ArmRun | None:
    folder = study.run_folder(arm, seed)
    if not is_trained(folder):
        return None
    trials: tuple[bool, ...] | None = ()
    if study.trials is not None:
        trials = outcomes_of(study, folder / CHECKPOINT_FOLDER, folder / TWIN_FILE)
        if trials is None:
            return None
    record = json.loads((folder / CHECKPOINT_FOLDER / "provenance.json").read_text(encoding="utf-8"))
    looks: Sequence[Mapping[str, float]] = record.get("evaluations", [])
    best = next((look for look in looks if look["step"] == record["step"]), None)
    first = next((look for look in looks if look["step"] == 0), None)
    name = folder.relative_to(study.out).as_posix()
    return ArmRun(seed, _rate(best), _rate(first), int(record["step"]), trials or (), name)


def _rate(look: Mapping[str, float] | None) -> SuccessRate | None:
    if look is None:
        return None
    return SuccessRate(round(look["success"] * look["rollouts"]), int(look["rollouts"]))


def _run_job(study: PolicyStudy, arm: str, seed: int) -> Job:
    folder, common = study.run_folder(arm, seed), study.plan.common
    options: list[object] = ["--policy", common.policy, "--world", common.world, "--judge", common.judge]
    options += ["--config", study.settings_file(arm), "--seed", seed, "--device", common.device]
    options += [word for instruction in common.instructions for word in ("--task", instruction)]
    options += ["--world-steps", common.world_steps] if common.world_steps else []
    return Job(
        f"{arm}, seed {seed}: reinforcement",
        prophrl("rl", "run", *study.datasets, folder, *options),
        study.out / "logs" / f"{arm}_{seed}_run.log",
        is_done=lambda: is_trained(folder),
        step=lambda: last_step(folder),
        steps=study.settings[arm].steps,
    )


def _trial_job(study: PolicyStudy, name: str, policy: Path, file: Path) -> Job:
    twin = study.plan.twin
    assert twin is not None
    command = prophrl(
        "trials", "fast", f"policy={policy}", "--task", twin.task, "--trials", twin.trials, "--execute", twin.execute,
        "--seed", twin.seed, "--workers", twin.workers, "--out", file,
    )  # fmt: skip
    log = file.with_suffix(".jsonl")
    return Job(
        f"{name}: trials on the twin",
        command,
        study.out / "logs" / f"{name.replace(', seed ', '_')}_trials.log",
        is_done=lambda: outcomes_of(study, policy, file) is not None,
        is_ready=(policy / "provenance.json").is_file,
        step=lambda: log.read_bytes().count(b"\n") if log.is_file() else 0,
        steps=twin.trials,
        unit="trial",
    )
