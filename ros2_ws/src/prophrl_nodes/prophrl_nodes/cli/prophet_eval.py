"""Evaluate world models on held-out episodes: tables, error over the horizon, action sensitivity, videos.

  prophrl prophet eval runs/prophet runs/dataset --out runs/prophet_report
  prophrl prophet eval full=runs/a full=runs/b "no history"=runs/c runs/dataset --out runs/ablations

NAME=CHECKPOINT names a row of the table. Checkpoints of one name are one row: the same model trained with different
seeds, whose spread says which differences count. Without names every checkpoint is a row of its own, named after its
run. "copy last frame" is always among the rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.output import print_json, table


class UsageError(ValueError):
    """Arguments that cannot be understood; the message says which."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT", help="world model's checkpoint folder")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder made by prophrl dataset build")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument("--chunks", type=int, default=6, help="length of the closed loop (default: 6)")
    parser.add_argument("--windows", type=int, default=64, help="single chunks (default: 64)")
    parser.add_argument("--episodes", type=int, default=32, help="closed loops, at most (default: 32)")
    parser.add_argument("--steps", type=int, help="passes of the network for a chunk (default: the checkpoint's)")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="FRACTION", help="as in training (default: 0.1)")
    parser.add_argument("--split-seed", type=int, default=0, help="as in training (default: 0)")
    parser.add_argument("--noise-seeds", type=int, default=1, help="samples of each world (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of windows and noise (default: 0)")
    parser.add_argument("--batch", type=int, default=8, help="clips imagined together (default: 8)")
    parser.add_argument("--videos", type=int, default=4, help="closed loops shown in the report (default: 4)")
    parser.add_argument("--no-sensitivity", action="store_true", help="leave out the test with other actions")
    parser.add_argument("--lpips", action="store_true", help="also compute LPIPS (needs the package lpips)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet eval``."""
    from datetime import UTC, datetime

    from prophrl_models.data.dataset import Dataset
    from prophrl_models.prophet.eval_report import FACTS_FILE, write_report
    from prophrl_models.prophet.evaluate import EvaluationSettings, evaluate
    from prophrl_models.prophet.regions import check_regions

    settings = EvaluationSettings(
        held_out=options.held_out,
        split_seed=options.split_seed,
        windows=options.windows,
        chunks=options.chunks,
        episodes=options.episodes,
        batch=options.batch,
        noise_seeds=options.noise_seeds,
        seed=options.seed,
        videos=options.videos,
        passes=options.steps,
        sensitivity=not options.no_sensitivity,
        lpips=options.lpips,
    )
    dataset = Dataset(options.dataset)
    named = _named(options.checkpoints)
    subjects = [_subject(name, folder, options) for name, folder in named]
    for _, folder in named:
        check_regions(None, folder, [dataset])
    options.out.mkdir(parents=True, exist_ok=True)
    say = (lambda line: None) if options.json else (lambda line: print(line, flush=True))
    with tempfile.TemporaryDirectory(prefix=".frames-", dir=options.out) as kept:
        result = evaluate(subjects, dataset, settings, Path(kept), say)
        page = write_report(
            result,
            dataset,
            options.out,
            provenance={f"checkpoint {k + 1}": _origin(subject) for k, subject in enumerate(subjects)},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            kept_frames=Path(kept),
        )
    if options.json:
        print_json({"report": page, **json.loads((options.out / FACTS_FILE).read_text())})
        return 0
    for note in result.notes:
        print(f"note: {note}")
    print(_table(result))
    print(page)
    return 0


def _named(arguments: Sequence[str]) -> list[tuple[str, Path]]:
    """Rows and folders of the checkpoint arguments.

    A folder called ``prophet`` is named after the run that holds it. Only the same NAME= makes one row of several
    checkpoints; folders that would share a name without one are numbered.
    """
    from prophrl_nodes.studies.fast_trials import distinct_names

    found: list[tuple[str, Path, bool]] = []
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        given = bool(equals) and "/" not in name
        if not given:
            folder = argument
            path = Path(folder).resolve()
            name = path.parent.name if path.name == "prophet" else path.name
        if not name.strip() or not folder:
            raise UsageError(f"{argument!r} is no checkpoint; give a folder, or NAME=FOLDER")
        found.append((name.strip(), Path(folder), given))
    distinct = distinct_names([name for name, _, _ in found])
    return [(name if given else other, folder) for (name, folder, given), other in zip(found, distinct, strict=True)]


def _subject(name: str, folder: Path, options: argparse.Namespace) -> Any:
    from prophrl_models.prophet.checkpoint import PROVENANCE, is_prophet
    from prophrl_models.prophet.evaluate import Subject
    from prophrl_models.prophet.rollout import ImaginedWorld
    from prophrl_models.prophet.worlds import load_world
    from prophrl_models.serving.engine import choose_device

    if not is_prophet(folder):
        raise UsageError(f"{folder} is no world model's checkpoint folder; train one with prophrl prophet train")
    device = choose_device(options.device)

    def load() -> ImaginedWorld:
        return load_world(folder, device=device, steps=options.steps, batch=options.batch)

    return Subject(name, str(folder), load, json.loads((folder / PROVENANCE).read_text()))


def _origin(subject: Any) -> str:
    weights = subject.provenance.get("sha256", {}).get("model.safetensors", "unknown")
    return f"{subject.row}: {Path(subject.source).name}, weights {weights[:16]}"


def _table(result: Any) -> str:
    from prophrl_models.prophet.evaluate import CHUNK, LOOP
    from prophrl_models.prophet.metrics import METRICS

    metrics = [METRICS[name] for name in result.rows[0].metrics]
    lines = [["", *(f"{m.label} {m.unit}".strip() for m in metrics)]]
    for protocol in (CHUNK, LOOP):
        lines.append([protocol, *("" for _ in metrics)])
        for row in result.rows:
            cells = []
            for name, metric in zip(row.metrics, metrics, strict=True):
                spread = row.spread(protocol, name)
                deviation = f" ±{spread.deviation:.{metric.decimals}f}" if spread.count > 1 else ""
                cells.append(f"{spread.mean:.{metric.decimals}f}{deviation}")
            lines.append([f"  {row.name}", *cells])
    return table(lines, right=range(1, len(metrics) + 1))
