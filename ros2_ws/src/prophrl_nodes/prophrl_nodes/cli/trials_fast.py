"""Trials in the fast lane: every policy on the same placements with the same noise, in simulated time.

  prophrl trials fast runs/sft/policy runs/rl/policy --task place_cube --trials 100 --out runs/compare.json
  prophrl trials fast sft=runs/sft/policy rl=runs/rl_0/policy rl=runs/rl_1/policy --task place_cube --out runs/c.json

NAME=FOLDER names a policy; policies of one name are seeds of one training and are also summarised together. The first
policy is what the others are compared with. The first 20 placements are the held-out grid, further ones lie so close to
it that no demonstration began there. With --out, trials are kept in a .jsonl beside it as they finish, and the same
command goes on where it was interrupted. The file is tied to checkpoints and settings, not to the twin's own code:
delete it when that has changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.output import print_json, table
from prophrl_nodes.cli.trials_latency import CHUNKING


class UsageError(ValueError):
    """Arguments that cannot be understood; the message says which."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT", help="policy's checkpoint folder")
    parser.add_argument("--task", required=True, help="what is tried")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="placements (default: 20)")
    parser.add_argument("--execute", type=int, default=8, metavar="ROWS", help="rows until the next look (default: 8)")
    parser.add_argument("--chunking", choices=CHUNKING, default="synchronous", help="(default: synchronous)")
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="MS", help="observation to answer, simulated (default: 0)"
    )
    parser.add_argument("--max-duration", type=float, default=0.0, metavar="S", help="(default: the task's limit)")
    parser.add_argument("--seed", type=int, default=0, help="of placements after the grid, and of noise (default: 0)")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="processes (default: 2)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything to this file")
    parser.add_argument("--videos", type=int, default=0, metavar="N", help="film the first N placements (needs --out)")
    parser.add_argument("--json", action="store_true", help="print JSON, without the single trials")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl trials fast``."""
    from prophrl_models.data.files import write_json
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.fast_trials import TrialSettings

    check_tasks([options.task])
    if options.videos and options.out is None:
        raise UsageError("--videos needs --out: the videos go into a folder beside that file")
    if options.out is not None and options.out.suffix != ".json":
        raise UsageError(f"--out must name a .json file, got {options.out}; trials go into a .jsonl beside it")
    settings = TrialSettings(
        options.task,
        options.trials,
        options.execute,
        options.chunking,
        options.latency * 1e-3,
        options.max_duration,
        options.seed,
    )
    summary = try_policies(
        named_policies(options.checkpoints),
        settings,
        workers=options.workers,
        device=options.device,
        log=options.out.with_suffix(".jsonl") if options.out is not None else None,
        videos=options.videos,
    )
    said = summary.as_json()
    if options.out is not None:
        write_json(options.out, said)
    if options.json:
        print_json({**said, "policies": [{k: v for k, v in p.items() if k != "outcomes"} for p in said["policies"]]})
        return 0
    print(text(summary))
    if options.out is not None:
        print(options.out)
    return 0


def try_policies(
    named: Sequence[tuple[str, Path]], settings: Any, *, workers: int, device: str, log: Path | None, videos: int = 0
) -> Any:
    """Run what is missing, with a progress bar; returns the summary."""
    from prophrl_nodes.studies.fast_summary import PolicyResult, Summary
    from prophrl_nodes.studies.fast_trials import Contender, identified, run_fast_trials
    from prophrl_nodes.studies.fast_trials_log import TrialLog
    from prophrl_nodes.studies.progress import progress_bar

    contenders = identified([Contender(name, folder) for name, folder in named], settings)
    with progress_bar(len(contenders) * settings.trials, "trial") as bar:
        found = run_fast_trials(
            contenders,
            settings,
            workers=workers,
            device=device,
            log=TrialLog(log) if log is not None else None,
            videos=videos,
            video_folder=log.with_name(f"{log.stem}_videos") if log is not None else None,
            on_trial=lambda trial: bar.update(1),
        )
    return Summary(settings, tuple(PolicyResult(c, tuple(t)) for c, t in zip(contenders, found, strict=True)))


def named_policies(arguments: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and folders of checkpoint arguments.

    A folder called ``policy`` is named after the run that holds it; folders that would then share a name are named by
    their whole path, for only the same NAME= makes seeds of one training.

    Raises:
        UsageError: an argument that is neither FOLDER nor NAME=FOLDER.
    """
    found: list[tuple[str, Path, bool]] = []
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        given = bool(equals) and "/" not in name
        if not given:
            folder = argument
            path = Path(folder).resolve()
            name = path.parent.name if path.name == "policy" else path.name
        if not name.strip() or not folder:
            raise UsageError(f"{argument!r} is no checkpoint; give a folder, or NAME=FOLDER")
        found.append((name.strip(), Path(folder), given))
    names = [name for name, _, _ in found]
    return [(name if given or names.count(name) == 1 else str(folder), folder) for name, folder, given in found]


def text(summary: Any) -> str:
    """The tables for people."""
    names = summary.names
    rows = [["policy", "success", "rate", "95 %", "time s", "failed on"]]
    for name, result in zip(names, summary.results, strict=True):
        rate, interval, mean_s = result.rate, result.rate.interval, result.success_duration_s
        rows.append(
            [
                name,
                f"{rate.successes} of {rate.trials}",
                f"{rate.rate:.2f}",
                f"{interval.low:.2f} .. {interval.high:.2f}",
                f"{mean_s:.1f}" if mean_s is not None else "-",
                "; ".join(f"{count} {what}" for what, count in result.stops.items()),
            ]
        )
    lines = [table(rows, right=(1, 2, 4))]
    for name, result in zip(names, summary.results, strict=True):
        for condition, count in result.unmet.items():
            lines.append(f"{name}: {count} ended without: {condition}")
    if summary.pairs:
        rows = [[f"against {names[0]}", "both", "only first", "only this", "neither", "points", "95 %", "p"]]
        for name, pair in zip(names[1:], summary.pairs, strict=True):
            interval = pair.interval()
            counts = (pair.both, pair.only_first, pair.only_second, pair.neither)
            limits = f"{100 * interval.low:+.0f} .. {100 * interval.high:+.0f}"
            rows.append([name, *map(str, counts), f"{100 * pair.difference:+.0f}", limits, f"{pair.p_value:.2g}"])
        lines += ["", table(rows, right=range(1, 8))]
    for name in summary.families:
        seeds = summary.over_seeds(name)
        lines.append(f"{name}, {seeds['count']} seeds: rate {_spread(seeds['rate'])}")
        if seeds["difference"] is not None:
            lines[-1] += f"; points against {names[0]} {_spread(seeds['difference'], 100, '+.0f')}"
    lines.append(
        "Time: mean of the successful trials. Intervals: Clopper-Pearson for a rate, Tango's score interval for a "
        "paired difference. p: exact McNemar."
    )
    return "\n".join(lines)


def _spread(spread: dict[str, float], factor: float = 1.0, form: str = ".2f") -> str:
    mean, low, high = (format(factor * spread[key], form) for key in ("mean", "least", "most"))
    deviation = format(factor * spread["deviation"], form.lstrip("+"))
    return f"{mean} ± {deviation} ({low} .. {high})"
