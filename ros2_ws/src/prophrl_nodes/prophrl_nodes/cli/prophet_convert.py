"""Published weights as a checkpoint to start from (--init).

  prophrl prophet convert weights/cosmos/transformer runs/start --vae weights/cosmos/vae
  prophrl prophet convert weights/prophet.pt runs/released --vae weights/wan/vae --released
  prophrl prophet convert weights/action.pt runs/start --vae weights/wan/vae --fresh scalar_actions

Weights are local files: diffusers folders, .safetensors or .pt of Cosmos-Predict2-2B-Video2World, of NVIDIA's
action-conditioned sample (12 actions of one arm: its action layers fit no other data, hence --fresh) or of the released
Prophet. Streams that the file does not know, or that are left out, start without effect and have to be trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

STREAMS = ("scalar_actions", "action_frames", "memory")
CONVENTIONS = ("LOCAL_FRAME_DELTA", "ABSOLUTE_POSE_DIFFERENCE", "CONTROLLER_SERVO")


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="file, or folder of the transformer")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the checkpoint")
    parser.add_argument("--vae", type=Path, required=True, metavar="FOLDER", help="Wan 2.1 autoencoder (diffusers)")
    parser.add_argument("--preset", default="2b", help="architecture (default: 2b)")
    parser.add_argument("--released", action="store_true", help="the memory as in the released Prophet, not gated")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a training checkpoint")
    parser.add_argument(
        "--fresh",
        nargs="+",
        choices=STREAMS,
        default=[],
        metavar="STREAM",
        help=f"do not take from the file, train anew: {', '.join(STREAMS)}",
    )
    parser.add_argument(
        "--convention",
        choices=CONVENTIONS,
        default="ABSOLUTE_POSE_DIFFERENCE",
        help="meaning of actions in the data it will be trained on (default: %(default)s)",
    )
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="actions per second (default: 10)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet convert``."""
    from calibration.poses import ActionConvention
    from prophrl_models.prophet.convert import convert_weights

    loaded = convert_weights(
        options.weights,
        options.vae,
        options.out,
        size=options.preset,
        released=options.released,
        ema=options.ema,
        fresh=options.fresh,
        convention=ActionConvention[options.convention],
        rate_hz=options.rate,
    )
    print(f"checkpoint: {options.out} ({len(loaded.loaded)} tensors)")
    if loaded.fresh:
        print(f"not taken from the file, to be trained: {', '.join(loaded.fresh)}")
    return 0
