"""The report of an evaluation folder: plan, key, log and bags in, one page with every video out."""

from __future__ import annotations

import time
from pathlib import Path

from prophrl_models.training.checkpoint import git_revision
from prophrl_models.trials.plan import PlanKey, TrialPlan
from prophrl_models.trials.report import Machine, TrialReport, cards_of, write_report
from prophrl_models.trials.results import PolicyOutcome, ResultLog, compare, policy_outcomes
from prophrl_models.trials.video import TrialMedia
from prophrl_nodes.studies.trial_media import DESCRIBED, Measurements, trial_media
from robot_bridge.twin.tasks import get_task


def write_trials_report(folder: Path) -> tuple[Path, list[PolicyOutcome]]:
    """Write ``report.html``, ``report.json`` and ``videos/`` into an evaluation's folder, best policy first.

    Returns:
        The page, and the outcome of each policy.

    Raises:
        PlanError: plan or key missing, or not of each other.
        ResultError: trials are still to be run, or the log is damaged.
        BagError: a trial's bag cannot be read.
    """
    plan = TrialPlan.load(folder / "plan.json")
    key = PlanKey.load(folder / "key.json", plan)
    log = ResultLog(folder / "trials.jsonl", plan)
    outcomes = sorted(policy_outcomes(log, key), key=lambda outcome: -outcome.rate.rate)
    task = get_task(plan.task)
    measured = Measurements()
    media: dict[str, TrialMedia] = {}
    for result in log.results:
        if result.bag:
            media[result.trial_id] = trial_media(folder / result.bag, folder / "videos", result.trial_id, measured)
    cards = cards_of(log, key, media, task.primary.name)
    best = outcomes[0].policy
    report = TrialReport(
        task=task.id,
        instruction=plan.instruction,
        policy=best,
        trials=cards,
        created_at=time.strftime("%d %B %Y, %H:%M"),
        machine=Machine.here(),
        provenance={"plan": plan.plan_hash, "git revision": git_revision()},
        scene_jpeg=next((media[card.trial_id].poster.jpeg for card in cards if card.trial_id in media), None),
        timing=measured.rows(DESCRIBED),
        comparison=compare(log, key, outcomes[1].policy, best) if len(outcomes) == 2 else None,
        note=f"Success means: {task.success_words}",
    )
    return write_report(report, folder), outcomes
