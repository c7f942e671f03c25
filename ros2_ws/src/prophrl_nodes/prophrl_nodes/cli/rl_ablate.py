"""``prophrl rl ablate``: arms of reinforcement, each trained with several seeds and measured on the same placements.

  prophrl rl ablate runs/dataset runs/rl_ablation --policy runs/sft/policy --world runs/world/prophet \\
      --judge classifier:runs/judge/classifier
  prophrl rl ablate runs/dataset runs/rl_ablation --plan my_plan.yaml --arms fa_grpo flow_grpo --seeds 0 1

A plan says what all runs share and what each arm changes; config/rl/ablation.yaml, the default, compares objectives,
forms of FlowScale, noise levels and K. Every training is one "prophrl rl run", every measurement one "prophrl trials
fast": killed at any moment, the same command goes on. Arms and seeds may be added later. Without a task of the digital
twin, imagined success on held-out starts is all there is. The page is OUT/report.html.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.output import table
from prophrl_nodes.cli.presets import plan_file, preset_file
from prophrl_nodes.cli.rl_shared import UsageError


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="start states, as for rl run")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the study, new or to be continued")
    parser.add_argument("--plan", type=Path, metavar="FILE.yaml", help="(default: config/rl/ablation.yaml)")
    parser.add_argument("--policy", type=Path, metavar="CHECKPOINT", help="instead of the plan's")
    parser.add_argument("--world", type=Path, metavar="CHECKPOINT", help="instead of the plan's")
    parser.add_argument("--judge", help="instead of the plan's")
    parser.add_argument("--preset", help="settings by name or YAML file, instead of the plan's")
    parser.add_argument("--steps", type=int, help="rollout batches of a run, instead of the plan's")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these of the plan's")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="instead of the plan's")
    parser.add_argument("--baseline", metavar="ARM", help="instead of the plan's")
    parser.add_argument(
        "--twin", metavar="TASK", help="task of the digital twin, instead of the plan's; none: no trials"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="placements, instead of the plan's")
    parser.add_argument("--device", help="of the runs, instead of the plan's")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl rl ablate``; 1 where a part failed."""
    from prophrl_nodes.studies.ablation_jobs import run_study
    from prophrl_nodes.studies.policy_ablation import jobs_of, prepare, write_result

    study = _study(options)
    prepare(study)
    last = "reinforcement" if study.trials is None else "trials on the twin"
    return run_study(
        jobs_of(study),
        write=lambda failed: write_result(study, failed),
        text=lambda failed: _text(study, failed),
        measures=lambda job: job.name.endswith(last) and not job.name.startswith("start"),
    )


def _study(options: argparse.Namespace) -> Any:
    from prophrl_models.rl.ablation_plan import TwinTrials, read_plan
    from prophrl_models.rl.settings import load_settings
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.policy_ablation import PolicyStudy

    plan = read_plan(options.plan or plan_file("rl", "ablation"))
    given = {name: getattr(options, name) for name in ("policy", "world", "judge", "preset", "steps", "device")}
    said: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value is not None
    }
    changes: dict[str, Any] = {"common": dataclasses.replace(plan.common, **said)}
    if options.baseline:
        changes["baseline"] = options.baseline
    if options.seeds:
        changes["seeds"] = tuple(options.seeds)
    if options.twin == "none":
        changes["twin"] = None
    elif options.twin or options.trials:
        if plan.twin is None and not options.twin:
            raise UsageError("--trials needs a task of the digital twin: give --twin TASK, or one in the plan")
        twin = plan.twin or TwinTrials(options.twin)
        changes["twin"] = dataclasses.replace(
            twin, task=options.twin or twin.task, trials=options.trials or twin.trials
        )
    plan = dataclasses.replace(plan, **changes)
    if options.arms:
        plan = plan.only(tuple(options.arms))
    if plan.twin is not None:
        check_tasks([plan.twin.task])
    named = plan.common.preset
    file = Path(named) if named.endswith((".yaml", ".yml")) else preset_file("rl", named)
    return PolicyStudy(tuple(options.datasets), options.out, plan, load_settings(file))


def _text(study: Any, failed: Mapping[str, str]) -> str:
    """The table and the finding for a terminal."""
    from prophrl_nodes.studies.policy_ablation import result_of

    result = result_of(study, failed)
    start = result.start_rate
    rows = [["arm", "success", "rate", "95 %", "seeds", "mean ± sd"]]
    rows.append(["start", f"{start.successes} of {start.trials}", *_shares(start), "", ""])
    for arm in result.arms:
        rate, spread = arm.rate(result.measure), arm.spread(result.measure)
        seeds = " ".join(f"{run.rate(result.measure).rate:.2f}" for run in arm.runs)
        deviation = f" ± {spread.deviation:.2f}" if spread.count > 1 else ""
        counts = f"{rate.successes} of {rate.trials}"
        rows.append([arm.name, counts, *_shares(rate), seeds, f"{spread.mean:.2f}{deviation}"])
    lines = [table(rows, right=(1, 2)), "", result.headline, *(f"- {sentence}" for sentence in result.sentences)]
    if result.missing:
        lines.append(f"not finished: {'; '.join(result.missing)}")
    return "\n".join(lines)


def _shares(rate: Any) -> tuple[str, str]:
    if not rate.trials:
        return "-", "-"
    return f"{rate.rate:.2f}", f"{rate.interval.low:.2f} .. {rate.interval.high:.2f}"
