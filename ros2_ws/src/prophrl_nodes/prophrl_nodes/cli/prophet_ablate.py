"""What is each part of the world model worth? Trains arms with parts left out and measures them on the same episodes.

  prophrl prophet ablate runs/dataset runs/ablation --preset small --codec runs/codec --latents runs/latents \\
      --steps 2000 --seeds 0 1
  prophrl prophet ablate runs/dataset runs/ablation --steps 500 --set network.blocks=4 --arms full no_frames

  full               history, action frames and action numbers
  no_history         nothing of the past: the known frame alone
  no_memory          what the known latent shows of the past, with the small codec four frames; nothing older (not
                     among the arms unless asked for)
  no_frames          no action frames
  no_numbers         no action numbers (not among the arms unless asked for)
  no_actions_at_all  neither numbers nor frames; the history is kept
  base               the unmodified architecture, image to video: neither history nor actions

Copying the last frame is always a row. Every training is one "prophrl prophet train", every measurement one "prophrl
prophet eval": killed at any moment, the same command goes on. Arms and seeds may be added later. The page is written
anew after every evaluation, OUT/report.html; Ctrl-C stops in order.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.output import table
from prophrl_nodes.cli.presets import preset_file
from prophrl_nodes.cli.prophet_shared import DEFAULT_PRESET

DEFAULT_ARMS = ("full", "no_history", "no_frames", "no_actions_at_all", "base")


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the study, new or to be continued")
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--preset", help=f"settings by name, see config/prophet (default: {DEFAULT_PRESET})")
    settings.add_argument("--config", type=Path, help="YAML settings, as those in config/prophet")
    parser.add_argument("--steps", type=int, help="optimiser steps of a training, instead of what the settings say")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another setting, such as network.blocks=4"
    )
    parser.add_argument("--arms", nargs="+", default=list(DEFAULT_ARMS), metavar="ARM", help="see above")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="N", help="(default: 0 1)")
    parser.add_argument("--codec", type=Path, metavar="FOLDER", help="codec of all arms (default: one is trained)")
    parser.add_argument("--latents", type=Path, metavar="FOLDER", help="where encoded datasets are kept (default: OUT)")
    parser.add_argument("--camera", type=Path, metavar="FILE", help="calibration for episodes recorded without one")
    parser.add_argument("--measure-on", type=Path, metavar="DATASET", help="its held-out episodes (default: the first)")
    parser.add_argument("--chunks", type=int, default=6, help="length of the closed loop (default: 6)")
    parser.add_argument("--windows", type=int, default=64, help="single chunks (default: 64)")
    parser.add_argument("--episodes", type=int, default=32, help="closed loops, at most (default: 32)")
    parser.add_argument("--noise-seeds", type=int, default=1, help="samples of each world (default: 1)")
    parser.add_argument("--passes", type=int, help="of a network for a chunk (default: the settings' sampling_steps)")
    parser.add_argument("--batch", type=int, default=8, help="clips imagined together (default: 8)")
    parser.add_argument("--videos", type=int, default=2, help="closed loops filmed for each training (default: 2)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--device", default="auto", help="of evaluations: auto, cpu, cuda or cuda:N (default: auto)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet ablate``; 1 where a part failed."""
    from prophrl_nodes.studies.ablation_jobs import run_study
    from prophrl_nodes.studies.world_ablation import jobs_of, prepare, write_result

    study = _study(options)
    prepare(study)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for evaluations, which have no option
    return run_study(
        jobs_of(study),
        write=lambda failed: write_result(study, failed),
        text=lambda failed: _text(study, failed),
        measures=lambda job: job.name.endswith("evaluation"),
    )


def _study(options: argparse.Namespace) -> Any:
    from prophrl_models.prophet.ablate import check_seeds, chosen_arms
    from prophrl_models.prophet.evaluate import EvaluationSettings
    from prophrl_models.prophet.train_settings import ProphetTrainConfig, load_prophet_config
    from prophrl_models.training.overrides import overridden, parse_overrides, plain_settings
    from prophrl_models.training.settings import settings_from
    from prophrl_nodes.studies.world_ablation import WorldStudy

    file = options.config or preset_file("prophet", options.preset or DEFAULT_PRESET)
    changes = parse_overrides(options.set)
    if options.steps is not None:
        changes["loop.steps"] = options.steps
    raw = overridden(plain_settings(load_prophet_config(file)), changes)
    config = settings_from(ProphetTrainConfig, raw, file.name)
    evaluation = EvaluationSettings(
        held_out=config.held_out or 0.1,  # a study without held-out episodes is refused with the arms
        split_seed=config.split_seed,
        windows=options.windows,
        chunks=options.chunks,
        episodes=options.episodes,
        batch=options.batch,
        noise_seeds=options.noise_seeds,
        videos=options.videos,
        passes=options.passes,
        sensitivity=False,
    )
    return WorldStudy(
        datasets=tuple(options.datasets),
        out=options.out,
        config=dataclasses.replace(config, loop=dataclasses.replace(config.loop, seed=0)),
        arms=chosen_arms(options.arms),
        seeds=check_seeds(options.seeds),
        codec=options.codec,
        latents=options.latents,
        camera=options.camera,
        measured_on=options.measure_on,
        evaluation=evaluation,
        threads=options.threads,
        device=options.device,
    )


def _text(study: Any, failed: Mapping[str, str]) -> str:
    """The tables and the finding for a terminal."""
    from prophrl_models.prophet.ablate_report import score_table, title
    from prophrl_models.prophet.ablate_result import PROTOCOLS
    from prophrl_nodes.studies.world_ablation import result_of

    result = result_of(study, failed)
    rows: list[list[str]] = []
    for protocol in PROTOCOLS:
        found = score_table(result, protocol)
        heads = [f"{head['label']} {head['arrow']}" for head in found["heads"]]
        rows.append([title(protocol), *(heads if not rows else [""] * len(heads))])
        for row in found["rows"]:
            cells = [f"{c['text']} ±{c['deviation']}" if c["deviation"] else c["text"] for c in row["cells"]]
            rows.append([f"  {row['name']}", *cells])
    lines = [table(rows, right=range(1, len(rows[0]))), "", result.headline, *(f"- {s}" for s in result.sentences)]
    if result.missing:
        lines.append(f"not finished: {'; '.join(result.missing)}")
    return "\n".join(lines)
