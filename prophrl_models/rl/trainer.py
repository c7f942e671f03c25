"""Reinforcement inside a frozen world model: roll out, judge, keep groups of mixed outcome, update; again and again.

runs/rl/                     the folder given as ``out_dir``
    policy/                  the result, written when the run has ended: the best policy on held-out starts, or, where
                             an audit raised an alarm, the last one that it spoke for
    best/, trusted/          these two so far
    steps/000010/            one every ``watch.save_every`` steps
    last/                    the policy after the last step
    log.jsonl, tensorboard/  one line for each step, another for each evaluation
    report.html, videos/     what happened, for people; written anew while the run goes on
    resume.safetensors, rollouts/    only while the run is unfinished (``run_state``)

All randomness is derived from (seed, step), so a run that was killed continues the same curve.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from prophrl_models.data.files import write_json
from prophrl_models.data.normalise import Normalisation
from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.rl.advantages import group_advantages
from prophrl_models.rl.audit import Audit, AuditRule, Look, OutcomeRate
from prophrl_models.rl.executor import Executor
from prophrl_models.rl.rollouts import Rollouts, Unit, derived_seed, joined
from prophrl_models.rl.run_state import RunFacts, RunStore
from prophrl_models.rl.settings import RlSettings
from prophrl_models.rl.starts import draw_starts
from prophrl_models.rl.update import Updater, rows_of
from prophrl_models.rl.update_log import UpdateResult
from prophrl_models.training.checkpoint import PROVENANCE, save_policy
from prophrl_models.training.log import TrainingLog
from prophrl_models.training.loop import trained
from prophrl_models.training.lora import merged_state
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER, SETTINGS_FILE, claim, run_settings
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.vla import without_adapters

HARMLESS = ("steps", "watch.report_every", "watch.save_every", "watch.tensorboard", "rollout.video_every")
"""Settings that may change when a run is continued: they do not touch the curve."""
BEST, TRUSTED, LAST, NUMBERED = "best", "trusted", "last", "steps"


class Examiner(Protocol):
    """Measures a policy somewhere else than in the imagination: on the robot, on the digital twin, on labelled videos.

    Returns the look of a step; ``imagined`` is filled in by the trainer.
    """

    def __call__(self, policy: FlowPolicy, step: int) -> Look: ...


class JudgeUnavailable(RuntimeError):
    """The judge gave no judgement on a whole round of rollouts; the run can be continued when it is back."""


@dataclass(frozen=True)
class StepReport:
    """What a step tells: its number (from 1), scalars, vectors over denoising steps [K], and its rollouts."""

    step: int
    steps: int
    scalars: Mapping[str, float]
    per_k: Mapping[str, Sequence[float]]
    rollouts: Rollouts | None


class Trainer:
    """One run.

    Args:
        policy: in evaluation mode, with its trained part chosen (``update.choose_parameters``).
        executor: its workers know ``training_starts + held_out_starts`` starts, the held-out ones last.
        normalisation: what the policy's scalings were made from; goes into checkpoints.
        provenance: what the policy, world, judge and data are: at least ``dataset_hash``, ``calibration_ids`` and
            ``parent``. With the settings it identifies the run.
        record: goes into checkpoints beside the provenance, and identifies nothing.
        examiner: asked every ``watch.audit_every`` steps; without one, a second judge of the workers is the audit.
        audit: in words, what examines or is the second judge; a continued run must have the same.
        rule: when looks speak for stopping.
        watch: told about every step.
        write_report: called with (folder, facts) when a report is due.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        executor: Executor,
        settings: RlSettings,
        out_dir: str | Path,
        *,
        training_starts: int,
        held_out_starts: int,
        normalisation: Normalisation,
        provenance: Mapping[str, Any],
        record: Mapping[str, Any] | None = None,
        examiner: Examiner | None = None,
        audit: str = "",
        rule: AuditRule | None = None,
        watch: Callable[[StepReport], None] | None = None,
        write_report: Callable[[Path, RunFacts], object] | None = None,
    ) -> None:
        if training_starts < 1 or (settings.watch.evaluate_every and held_out_starts < 1):
            raise TrainingError(
                f"a run needs starts to train on and held-out ones to evaluate, got {training_starts} and "
                f"{held_out_starts}; see starts.split_starts, or set watch.evaluate_every to 0"
            )
        self.policy, self.executor, self.settings, self.out_dir = policy, executor, settings, Path(out_dir)
        self.training_starts, self.held_out_starts = training_starts, held_out_starts
        self.normalisation, self.provenance, self.record = normalisation, dict(provenance), dict(record or {})
        self.examiner, self.rule = examiner, rule or AuditRule()
        self._watch, self._write_report = watch, write_report
        self.updater = Updater(policy, settings.update)
        identity = {n: v for n, v in run_settings(settings, self.provenance).items() if n not in HARMLESS}
        self._identity = {**identity, "provenance": json.dumps(self.provenance, sort_keys=True, default=str)}
        if audit:
            self._identity["audit"] = audit
        self.store = RunStore(self.out_dir, json.dumps(self._identity, sort_keys=True))
        self.facts = RunFacts()

    def run(self) -> Path:
        """Train to the end, or go on where an earlier call stopped; returns the checkpoint folder.

        Raises:
            TrainingError: the folder holds another run or a finished one, or one with other audits.
            CheckpointError: the resume file is damaged.
            JudgeUnavailable: see there; what was computed is kept.
            FloatingPointError: see ``Updater.update``.
        """
        self._check_audit()
        claim(self.out_dir, self._identity, write=True)
        self.facts = self.store.resume(self.policy, self.updater)
        self.store.keep_only(self.facts.step)
        log = TrainingLog(self.out_dir, tensorboard=self.settings.watch.tensorboard)
        log.trim(self.facts.step)
        try:
            self._run(log)
        finally:
            log.close()
        return self._finish()

    def _check_audit(self) -> None:
        """An audit that is dropped, added or changed on the way would leave a curve nobody can read."""
        file = self.out_dir / SETTINGS_FILE
        if not (self.store.file.is_file() and file.is_file()):
            return
        before, now = json.loads(file.read_text(encoding="utf-8")).get("audit", ""), self._identity.get("audit", "")
        if before != now:
            raise TrainingError(
                f"{self.out_dir} holds an unfinished run with {_audited(before)}, and was now asked to go on with "
                f"{_audited(now)}; continue it with the audit options it was started with, or use a new output folder"
            )

    def _run(self, log: TrainingLog) -> None:
        steps = self.settings.steps
        self.executor.load(self._trained())
        while True:
            self._evaluate(log)
            if self.facts.step >= steps or self.facts.stopped:
                return
            report = self._step(self.facts.step)
            log.write(report.step, {**report.scalars, **_flat(report.per_k)})
            self.store.save(self.policy, self.updater, self.facts)
            self.store.keep_only(self.facts.step)
            if self._watch is not None:
                self._watch(report)
            w = self.settings.watch
            if w.save_every and self.facts.step % w.save_every == 0:
                self._save(self.out_dir / NUMBERED / f"{self.facts.step:06d}")
            if w.report_every and self.facts.step % w.report_every == 0:
                self._report()

    def _step(self, step: int) -> StepReport:
        """Gather experience and learn from it."""
        began_s = time.perf_counter()
        rollouts, advantage_B, scalars = self._collect(step)
        gathered_s = time.perf_counter()
        facts, o = self.facts, self.settings
        result = UpdateResult({"updates": 0.0})
        if rollouts is None:
            facts.empty_steps += 1
            if facts.empty_steps >= o.watch.patience_empty:
                facts.stopped = (
                    f"{facts.empty_steps} steps in a row without one group of mixed outcome: the policy always "
                    "succeeds, never does, or the judge always says the same; look at the rollout videos"
                )
        else:
            facts.empty_steps = 0
            seed = derived_seed(o.seed, step, "update")
            # As many optimiser steps as planned also where few groups were kept, but none on less than a group.
            planned = o.updates_per_step // o.update.epochs
            mini_batches = max(1, min(planned, len(rollouts) // o.rollout.group_size))
            result = self.updater.update(rows_of(rollouts, advantage_B, seed), mini_batches=mini_batches, seed=seed)
            facts.policy_steps += int(result.scalars["updates"])
            self.executor.load(self._trained())
            far = result.scalars.get("kl_reference_last", 0.0)
            if 0.0 < o.watch.max_reference_kl < far:
                facts.stopped = (
                    f"the KL of an action number to the first policy is {far:.3g}, allowed was "
                    f"{o.watch.max_reference_kl:g} (watch.max_reference_kl)"
                )
        facts.step = step + 1
        seconds = {"rollout_s": gathered_s - began_s, "update_s": time.perf_counter() - gathered_s}
        return StepReport(step + 1, o.steps, {**scalars, **result.scalars, **seconds}, result.per_k, rollouts)

    def _collect(self, step: int) -> tuple[Rollouts | None, Tensor, dict[str, float]]:
        """Rounds of groups until enough have mixed outcomes: (kept rollouts, their advantages, what to log)."""
        r = self.settings.rollout
        video = bool(r.video_every) and step % r.video_every == 0
        kept: list[Rollouts] = []
        advantages: list[Tensor] = []
        seen: list[Rollouts] = []
        groups = 0
        for number in range(r.max_rounds):
            wanted = r.prompts - groups
            if wanted < 1:
                break
            found = self._run_units(step, f"round_{number}", self._round(step, number, wanted, video))
            seen.append(found)
            advantage_B, keep_B = group_advantages(
                found.reward_B(r.reward),
                group_size=r.group_size,
                keep_between=(r.keep_low, r.keep_high),
                deviation=r.deviation,
            )
            if bool(found.success_B.isnan().all()):
                raise JudgeUnavailable(
                    f"the judge gave no judgement on any of {len(found)} rollouts ({found.reasons[0]!r}); bring it "
                    "back and repeat the command, the run goes on"
                )
            rows = keep_B.nonzero()[:, 0].tolist()
            if rows:
                kept.append(found.select(rows))
                advantages.append(advantage_B[keep_B])
                groups += int(keep_B.reshape(-1, r.group_size).any(1).sum())
        everything = joined(seen)
        scalars = _rollout_scalars(everything, r.group_size, groups)
        if video:
            self._keep_videos(step, everything)
        if not kept:
            return None, torch.zeros(0), scalars
        return joined(kept), torch.cat(advantages), scalars

    def _round(self, step: int, number: int, groups: int, video: bool) -> list[Unit]:
        """The units of a round; groups and seeds depend on (seed, step, round) alone."""
        o, r = self.settings, self.settings.rollout
        starts = draw_starts(self.training_starts, groups, derived_seed(o.seed, step, number, "starts"))
        seeds = [
            [derived_seed(o.seed, step, number, group, member) for member in range(r.group_size)]
            for group in range(groups)
        ]
        units = []
        for first in range(0, groups, r.groups_at_once):
            members = range(first, min(groups, first + r.groups_at_once))
            units.append(
                Unit(
                    tuple(starts[g] for g in members for _ in range(r.group_size)),
                    tuple(seed for g in members for seed in seeds[g]),
                    video=video,
                )
            )
        return units

    def _run_units(self, step: int, name: str, units: Sequence[Unit]) -> Rollouts:
        """All units in order; those finished before a kill are read back."""
        done: dict[int, Rollouts] = {}
        for number, unit in enumerate(units):
            found = self.store.load_unit(step, f"{name}_{number:03d}", unit)
            if found is not None:
                done[number] = found
        missing = [number for number in range(len(units)) if number not in done]
        for place, rollouts in self.executor.run([units[number] for number in missing]):
            number = missing[place]
            self.store.save_unit(step, f"{name}_{number:03d}", units[number], rollouts)
            done[number] = rollouts
        return joined([done[number] for number in range(len(units))])

    def _evaluate(self, log: TrainingLog) -> None:
        """Success on held-out starts when it is due, with the same seeds every time; the best policy is saved.

        Best by what it is reinforced for: where that is the judge's score, by the mean score, which a few rollouts tell
        more of than their verdicts do. A policy that the audit doubts is never the best: what it gained may be the
        world's or the judge's mistake.
        """
        o, facts, w = self.settings, self.facts, self.settings.watch
        due = bool(w.evaluate_every) and (
            facts.step % w.evaluate_every == 0 or facts.step >= o.steps or bool(facts.stopped)
        )
        if not due or any(e["step"] == facts.step for e in facts.evaluations):
            return
        found = self._run_units(facts.step, "held_out", self._held_out_units())
        imagined = self._rate(found.success_B)
        if not imagined.trials:
            raise JudgeUnavailable("the judge gave no judgement on the held-out rollouts; repeat the command later")
        score = found.score_B[~found.success_B.isnan()].mean().item()
        entry = {
            "step": float(facts.step), "success": imagined.rate, "score": score, "rollouts": float(imagined.trials)
        }  # fmt: skip
        audited = self._rate(found.audited_B)
        look = Look(facts.step, imagined=imagined, audited=audited if audited.trials else None)
        if self.examiner is not None and w.audit_every and facts.step % w.audit_every == 0:
            look = dataclasses.replace(self.examiner(self.policy, facts.step), step=facts.step, imagined=imagined)
        if look.audited is not None:
            entry["audited"] = look.audited.rate
        entry |= look.agreement()
        facts.evaluations.append(entry)
        audit = Audit.from_json(facts.audit) if facts.audit else Audit(self.rule)
        alarms = audit.add(look)
        facts.audit = audit.to_json()
        if alarms and not facts.stopped:
            facts.stopped = " ".join(alarm.message for alarm in alarms)
        doubted = bool(audit.doubts())
        worth = score if o.rollout.reward == "score" else imagined.rate
        if not doubted and worth > facts.best_worth:
            self._save(self.out_dir / BEST)
            facts.best_step, facts.best_success, facts.best_worth = facts.step, imagined.rate, worth
        if not doubted and look.speaks:
            rate = entry.get("audited", 0.0)  # without one, nothing speaks for a policy after the first
            if rate > facts.trusted_rate:
                self._save(self.out_dir / TRUSTED)
                facts.trusted_step, facts.trusted_rate = facts.step, rate
        log.write(facts.step, {f"held_out/{name}": value for name, value in entry.items() if name != "step"})
        self.store.save(self.policy, self.updater, facts)

    def _held_out_units(self) -> list[Unit]:
        o, r, w = self.settings, self.settings.rollout, self.settings.watch
        size = r.groups_at_once * r.group_size
        pairs = [
            (self.training_starts + start, derived_seed(o.seed, "held-out", start, repeat))
            for start in range(self.held_out_starts)
            for repeat in range(w.evaluate_rollouts)
        ]
        parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        return [Unit(tuple(s for s, _ in part), tuple(s for _, s in part), mode="ode") for part in parts]

    def _rate(self, success_B: Tensor) -> OutcomeRate:
        """Successes among those that were judged (NaN: not); the held-out units are the same at every look."""
        outcomes = [None if math.isnan(success) else success > 0.5 for success in success_B.tolist()]
        return OutcomeRate.of(outcomes, self.rule.confidence)

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in trained(self.policy)}

    def _save(self, folder: Path) -> Path:
        """A checkpoint of the policy as it is now, adapters merged."""
        policy = self.policy
        if any(".lora_" in name for name, _ in policy.named_parameters()):
            policy = without_adapters(policy, merged_state(policy))
        record = {
            **self.provenance,
            **self.record,
            "reinforcement": self.settings.to_json(),
            "step": self.facts.step,
            "evaluations": self.facts.evaluations,
            "stopped": self.facts.stopped,
        }
        return save_policy(folder, policy, self.normalisation, record)

    def _keep_videos(self, step: int, rollouts: Rollouts) -> None:
        """Best, worst and most doubtful rollout of a step, as files for the report."""
        chosen = notable(rollouts)
        folder = self.out_dir / "videos"
        folder.mkdir(exist_ok=True)
        for name, row in chosen.items():
            (folder / f"step_{step + 1:06d}_{name}.mp4").write_bytes(rollouts.videos[row])
        facts = {
            name: {
                "success": None if math.isnan(rollouts.success_B[row].item()) else bool(rollouts.success_B[row]),
                "score": rollouts.score_B[row].item(),
                "reason": rollouts.reasons[row],
            }
            for name, row in chosen.items()
        }
        (folder / f"step_{step + 1:06d}.json").write_text(json.dumps(facts, indent=1))

    def _report(self) -> None:
        if self._write_report is not None:
            self._write_report(self.out_dir, self.facts)

    def _finish(self) -> Path:
        """The result: the best policy on held-out starts, or the last one where none was held out.

        Where the audit's alarms stand, imagined success has lost its meaning, also that of the looks before: the result
        is then the policy with the best audited success before they parted; the first one where nothing audited it.
        The last policy is kept beside the result: a few held-out rollouts may have chosen badly, and trials can tell.
        """
        facts, chosen, final = self.facts, BEST, self.out_dir / CHECKPOINT_FOLDER
        if facts.audit and Audit.from_json(facts.audit).stop:
            chosen, facts.best_step = TRUSTED, facts.trusted_step
            facts.best_success = next(e["success"] for e in facts.evaluations if e["step"] == facts.best_step)
        if facts.best_step >= 0:
            self._save(self.out_dir / LAST)
            temporary = self.out_dir / f".{CHECKPOINT_FOLDER}.copy"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(self.out_dir / chosen, temporary)
            record = json.loads((temporary / PROVENANCE).read_text(encoding="utf-8"))
            write_json(temporary / PROVENANCE, {**record, "stopped": facts.stopped})
            shutil.rmtree(final, ignore_errors=True)  # of a call that was killed after this
            temporary.replace(final)
        else:
            self._save(final)
        self._report()
        self.store.forget()
        return final


def _audited(audit: str) -> str:
    return f"the audit {audit!r}" if audit else "no audit"


def notable(rollouts: Rollouts) -> dict[str, int]:
    """Rows of the best, the worst and the most doubtful rollout by the judge's score; ties go to the first."""
    score = rollouts.score_B.double()
    success = rollouts.success_B.nan_to_num(0.5).double()
    doubt = (score - 0.5).abs() + rollouts.agreement_B.nan_to_num(1.0).double()
    return {
        "best": int((success + score).argmax()),
        "worst": int((success + score).argmin()),
        "borderline": int(doubt.argmin()),
    }


def _rollout_scalars(rollouts: Rollouts, group_size: int, kept_groups: int) -> dict[str, float]:
    """What is logged about experience."""
    groups = len(rollouts) // group_size
    agreement = rollouts.agreement_B[~rollouts.agreement_B.isnan()]
    scalars = {
        "imagined_success": rollouts.success_B.nanmean().item(),
        "groups": float(groups),
        "kept_groups": float(kept_groups),
        "kept_fraction": kept_groups / groups,
        "rollouts": float(len(rollouts)),
        "judge/score": rollouts.score_B.mean().item(),
        "judge/unjudged": float(rollouts.success_B.isnan().sum()),
        "judge/unparsed_votes": float(rollouts.unparsed_B.sum()),
        **{f"time/{name}_s": seconds for name, seconds in rollouts.seconds.items()},
    }
    if len(agreement):
        scalars["judge/vote_agreement"] = agreement.mean().item()
    return scalars


def _flat(per_k: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {f"{name}_k/{k}": value for name, values in per_k.items() for k, value in enumerate(values)}
