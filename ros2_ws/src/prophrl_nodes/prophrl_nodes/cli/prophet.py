"""The Prophet world model: train it on a dataset, make it fast, measure it.

  prophrl prophet train runs/dataset runs/world --preset small       codec, latents, network: everything
  prophrl prophet codec runs/dataset runs/codec                      only the codec, for several world models
  prophrl prophet cache runs/dataset runs/latents --codec runs/codec
  prophrl prophet stops runs/dataset runs/stops                      what follows a stop of the arm, to train on, too
  prophrl prophet distil runs/world/prophet runs/dataset runs/fast   a copy that needs four passes or fewer
  prophrl prophet convert weights/cosmos runs/start --vae weights/cosmos/vae
  prophrl prophet eval runs/world/prophet runs/dataset --out runs/report
  prophrl prophet rank runs/world/prophet runs/dataset runs/*/policy --judge classifier:runs/judge/classifier \\
      --task place_cube --out runs/ranking                           does it rank policies as the twin does?
  prophrl prophet ablate runs/dataset runs/ablation --seeds 0 1      what is each part of it worth?

Whatever was interrupted goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse

from prophrl_nodes.cli import (
    prophet_ablate,
    prophet_cache,
    prophet_codec,
    prophet_convert,
    prophet_distil,
    prophet_eval,
    prophet_pack,
    prophet_rank,
    prophet_reference,
    prophet_stops,
    prophet_train,
)

VERBS = {
    "codec": (prophet_codec, "train the codec that turns pictures into latents"),
    "cache": (prophet_cache, "encode datasets once, for several trainings"),
    "stops": (prophet_stops, "what follows a stop of the arm, as episodes to train on"),
    "train": (prophet_train, "train a world model"),
    "distil": (prophet_distil, "make a world model that needs few passes"),
    "convert": (prophet_convert, "published weights to a checkpoint to start from"),
    "pack": (prophet_pack, "a copy of half the size, for giving away"),
    "eval": (prophet_eval, "compare what a world model imagines with what happened"),
    "rank": (prophet_rank, "compare how a world model ranks policies with how the twin does"),
    "reference": (prophet_reference, "the world model that is shipped, from nothing"),
    "ablate": (prophet_ablate, "train it with parts left out, and say what each is worth"),
}


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{" + ",".join(VERBS) + "}")
    for name, (module, summary) in VERBS.items():
        verb = verbs.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.register(verb)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet``."""
    return int(VERBS[options.verb][0].run(options))
