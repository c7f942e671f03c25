"""Does the world model rank policies as the digital twin does? Spearman's correlation of success on both sides.

  prophrl trials fast a=runs/a/policy b=runs/b/policy c=runs/c/policy --task place_cube --trials 50 --out runs/twin.json
  prophrl prophet rank runs/world/prophet runs/dataset a=runs/a/policy b=runs/b/policy c=runs/c/policy \\
      --judge classifier:runs/judge/classifier --task place_cube --trials runs/twin.json --out runs/ranking

Policies are rolled out in the world as deployed (ODE), from starts of episodes that it was not trained on, and judged.
Without --trials their success on the twin is measured here. Six checkpoints or more that differ in quality are worth
ranking; with three, even perfect agreement has p = 1/6. What was interrupted goes on when the command is repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.output import print_json, table


class UsageError(ValueError):
    """Arguments that cannot be understood; the message says which."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("world", type=Path, metavar="WORLD", help="world model's checkpoint folder")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="its held-out episodes give the starts")
    parser.add_argument("checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT", help="policies, three at least")
    parser.add_argument("--judge", required=True, help="classifier:FOLDER, local:FOLDER or server:ADDRESS,MODEL")
    parser.add_argument("--task", required=True, help="the twin's task")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument(
        "--trials", type=Path, metavar="FILE.json", help="success on the twin, from prophrl trials fast"
    )
    parser.add_argument("--twin-trials", type=int, default=50, metavar="N", help="without --trials (default: 50)")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="processes of these (default: 2)")
    parser.add_argument("--execute", type=int, default=8, metavar="ROWS", help="actions of each chunk (default: 8)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a rollout (default: 12)")
    parser.add_argument("--starts", type=int, default=0, metavar="N", help="only so many of them (default: all)")
    parser.add_argument("--repeats", type=int, default=1, help="rollouts of each start (default: 1)")
    parser.add_argument("--batch", type=int, default=16, help="rollouts at a time (default: 16)")
    parser.add_argument("--videos", type=int, default=2, metavar="N", help="rollouts of each policy shown (default: 2)")
    parser.add_argument("--world-steps", type=int, help="passes of the world model for a chunk (default: its own)")
    parser.add_argument("--seed", type=int, default=0, help="of all noise (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet rank``."""
    from datetime import UTC, datetime

    from prophrl_models.prophet.rank_report import facts, write_rank_report
    from prophrl_nodes.cli.tasks import check_tasks

    check_tasks([options.task])
    ranking, provenance = _measure(options)
    page = write_rank_report(
        ranking, options.out, provenance=provenance, created_at=datetime.now(UTC).isoformat(timespec="seconds")
    )
    if options.json:
        print_json({"report": page, **facts(ranking)})
        return 0
    for note in ranking.notes:
        print(f"note: {note}")
    rows = [["policy", "twin", "95 %", "world", "95 %"]]
    for policy in ranking.policies:
        cells = [policy.name]
        for rate in (policy.true_rate, policy.imagined_rate):
            cells += [
                f"{rate.successes} of {rate.trials}",
                f"{rate.interval.low:.2f} .. {rate.interval.high:.2f}",
            ]
        rows.append(cells)
    print(table(rows, right=(1, 3)))
    found, interval = ranking.correlation, ranking.interval
    print(ranking.headline)
    if interval.low == interval.low:
        print(f"rho with other rollouts and trials of these policies: {interval.low:.2f} .. {interval.high:.2f} (90 %)")
    exact = "exact" if found.exact else "from drawn orders"
    print(f"two-sided p {found.p_two_sided:.2g} ({exact}); imagined minus true {100 * ranking.bias:+.0f} points")
    print(page)
    return 0


def _measure(options: argparse.Namespace) -> tuple[Any, dict[str, str]]:
    """Both sides: (ranking, lines of provenance)."""
    from dataclasses import asdict

    from prophrl_models.data.dataset import Dataset
    from prophrl_models.prophet.checkpoint import is_prophet
    from prophrl_models.prophet.rank_report import LEAST, RankedPolicy, Ranking
    from prophrl_models.prophet.regions import check_regions
    from prophrl_models.prophet.worlds import load_world
    from prophrl_models.reward.argument import parse_judge
    from prophrl_models.reward.factory import open_judge
    from prophrl_models.serving.engine import choose_device
    from prophrl_models.training.checkpoint import sha256
    from prophrl_nodes.cli.trials_fast import named_policies
    from prophrl_nodes.studies.fast_trials import Contender, TrialSettings, distinct_names, identified
    from prophrl_nodes.studies.progress import progress_bar
    from prophrl_nodes.studies.world_ranking import (
        ImaginationSettings,
        imagine_policy,
        training_notes,
        unseen_starts,
    )
    from robot_bridge.twin.tasks import get_task

    if len(options.checkpoints) < LEAST:
        raise UsageError(f"an order needs at least {LEAST} policies, got {len(options.checkpoints)}")
    if not is_prophet(options.world):
        raise UsageError(f"{options.world} is no world model's checkpoint folder; train one with prophrl prophet train")
    settings = ImaginationSettings(
        options.execute, options.seconds, options.repeats, options.batch, options.videos, options.seed
    )
    of_trials = TrialSettings(options.task, options.twin_trials, options.execute, seed=options.seed)
    named = named_policies(options.checkpoints)
    contenders = identified([Contender(name, folder) for name, folder in named], of_trials)
    dataset = Dataset(options.dataset)
    for _, folder in named:
        check_regions(folder, options.world, [dataset])
    starts, note = unseen_starts(
        dataset, options.world, get_task(options.task).instruction, most=options.starts, seed=options.seed
    )
    judge_settings = parse_judge(options.judge)
    judge = open_judge(judge_settings)
    device = str(choose_device(options.device))
    world = load_world(options.world, device=device, steps=options.world_steps, batch=options.batch)
    true, origin = _on_the_twin(options, contenders, named, of_trials)
    weights = sha256(options.world / "model.safetensors")
    identity = f"{weights} {options.world_steps} {judge_settings}"
    names = distinct_names([name for name, _ in named])
    policies = []
    with progress_bar(len(contenders) * len(starts) * settings.repeats, "rollout") as bar:
        for name, contender, outcomes in zip(names, contenders, true, strict=True):
            imagined = imagine_policy(
                contender, world, judge, starts, settings, options.out,
                device=device, identity=identity, on_rollouts=bar.update,
            )  # fmt: skip
            policies.append(
                RankedPolicy(name, contender.checkpoint_id, imagined.success, tuple(outcomes), imagined.videos)
            )
    ranking = Ranking(
        options.task,
        f"{options.world.name}, weights {weights[:16]}",
        tuple(policies),
        {**asdict(settings), "world_steps": options.world_steps or "its own"},
        (note, *training_notes(contenders, dataset)),
    )
    provenance = {
        "dataset": f"{dataset.folder.name}, content hash {dataset.content_hash}",
        "judge": f"{judge_settings.kind} {judge_settings.place} {judge_settings.model}".strip(),
        "twin": origin,
    }
    return ranking, provenance


def _on_the_twin(
    options: argparse.Namespace, contenders: Any, named: Any, settings: Any
) -> tuple[list[list[bool]], str]:
    """Outcomes of each contender on the twin, and where they come from."""
    from prophrl_models.data.files import write_json
    from prophrl_nodes.cli.trials_fast import try_policies
    from prophrl_nodes.studies.fast_summary import read_outcomes

    if options.trials is not None:
        known = read_outcomes(options.trials, options.task)
        missing = [c.name for c in contenders if c.checkpoint_id not in known]
        if missing:
            raise UsageError(
                f"{options.trials} has no trials of {', '.join(missing)} (or of other weights); run prophrl trials "
                "fast with all of them"
            )
        return [known[c.checkpoint_id] for c in contenders], str(options.trials.name)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "twin.json"
    summary = try_policies(named, settings, workers=options.workers, device="cpu", log=file.with_suffix(".jsonl"))
    write_json(file, summary.as_json())
    return [result.outcomes for result in summary.results], f"{settings.trials} trials each, {file.name}"
