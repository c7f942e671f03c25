"""Trials of policies: planned before the first one is run, blinded, reported after the last.

  prophrl trials plan runs/trials --task place_cube --trials 20
  prophrl launch evaluate checkpoint:=runs/training/policy plan:=runs/trials/plan.json output:=runs/trials
  prophrl trials status runs/trials
  prophrl trials report runs/trials
  prophrl trials plan runs/play --task place_cube --trials 40 --play       a policy's own attempts, as data
  prophrl trials latency runs/training/policy --task place_cube --latency 0 100 300     in simulated time
  prophrl trials fast runs/sft/policy runs/rl/policy --task place_cube --trials 100     in simulated time, compared
  prophrl trials play runs/sft/policy --task place_cube --out runs/play     in simulated time, attempts as data

The folder holds plan.json (placements and order), key.json (which letter is which policy), trials.jsonl and bags.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prophrl_nodes.cli import trials_fast, trials_latency, trials_play
from prophrl_nodes.cli.output import print_json, table


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{plan,status,report,latency,fast,play}")
    plan = verbs.add_parser("plan", help="fix placements, order and blinding")
    plan.add_argument("--task", required=True, help="what is tried")
    plan.add_argument("--trials", type=int, default=20, metavar="N", help="held-out placements (default: 20)")
    plan.add_argument("--policy", action="append", metavar="NAME", help="policy in the comparison; may be repeated")
    plan.add_argument("--runs", type=int, default=1, help="how often every policy meets every placement (default: 1)")
    plan.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")
    plan.add_argument(
        "--play",
        action="store_true",
        help="placements like those of demonstrations: for gathering data, not for judging",
    )
    plan.add_argument("--max-duration", type=float, metavar="S", help="time limit of a trial (default: the task's)")
    status = verbs.add_parser("status", help="how far the plan is; results stay sealed until the last trial")
    report = verbs.add_parser("report", help="write report.html, report.json and videos into the folder")
    trials_latency.register(verbs.add_parser("latency", help="what latency costs, with and without real-time chunking"))
    fast = "compare policies in simulated time, on the same placements"
    trials_fast.register(
        verbs.add_parser(
            "fast",
            help=fast,
            description=trials_fast.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    trials_play.register(
        verbs.add_parser(
            "play",
            help="attempts in simulated time, as a dataset of what was commanded",
            description=trials_play.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    for verb in (plan, status, report):
        verb.add_argument("folder", type=Path, metavar="FOLDER", help="folder of this evaluation")
        verb.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl trials``."""
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "plan": _plan,
        "status": _status,
        "report": _report,
        "latency": trials_latency.run,
        "fast": trials_fast.run,
        "play": trials_play.run,
    }
    return verbs[options.verb](options)


def _plan(options: argparse.Namespace) -> int:
    from prophrl_models.trials.plan import make_plan
    from prophrl_nodes.cli.tasks import check_tasks
    from robot_bridge.twin.tasks import get_task, held_out_placements, training_placements

    check_tasks([options.task])
    task = get_task(options.task)
    if options.play:
        placements = training_placements(task.id, options.trials, options.seed)
    else:
        placements = held_out_placements(task.id, options.trials)
    plan, key = make_plan(
        task.id,
        task.instruction,
        [placement.to_json() for placement in placements],
        options.policy or ["policy"],
        seed=options.seed,
        runs=options.runs,
        max_duration_s=options.max_duration or task.max_duration_s,
    )
    key.save(options.folder / "key.json")
    plan.save(options.folder / "plan.json")
    if options.json:
        print_json({"plan": options.folder / "plan.json", "hash": plan.plan_hash, "trials": len(plan.trials)})
    else:
        print(f"{options.folder / 'plan.json'}: {len(plan.trials)} trials, hash {plan.plan_hash[:12]}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from prophrl_models.trials.plan import TrialPlan
    from prophrl_models.trials.results import ResultLog

    plan = TrialPlan.load(options.folder / "plan.json")
    log = ResultLog(options.folder / "trials.jsonl", plan)
    upcoming = log.next_trial()
    said = {
        "task": plan.task,
        "trials": len(plan.trials),
        "done": len(log.valid),
        "void": len(log.voided),
        "next": upcoming.trial_id if upcoming else None,
    }
    if options.json:
        print_json(said)
    else:
        print(f"{said['task']}: {said['done']} of {said['trials']} trials done, {said['void']} void")
    return 0


def _report(options: argparse.Namespace) -> int:
    from prophrl_nodes.studies.trials_report import write_trials_report

    page, outcomes = write_trials_report(options.folder)
    if options.json:
        print_json({"report": page, "policies": [_as_json(outcome) for outcome in outcomes]})
        return 0
    rows = [["policy", "successes", "rate", "95 %"]]
    for outcome in outcomes:
        rate, interval = outcome.rate, outcome.rate.interval
        rows.append(
            [
                outcome.policy,
                f"{rate.successes} of {rate.trials}",
                f"{rate.rate:.2f}",
                f"{interval.low:.2f} .. {interval.high:.2f}",
            ]
        )
    print(table(rows, right=(1, 2)))
    print(page)
    return 0


def _as_json(outcome: Any) -> dict[str, Any]:
    rate, interval = outcome.rate, outcome.rate.interval
    return {
        "policy": outcome.policy,
        "successes": rate.successes,
        "trials": rate.trials,
        "rate": rate.rate,
        "interval_95": [interval.low, interval.high],
    }
