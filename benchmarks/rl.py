#!/usr/bin/env python3
"""Cost of reinforcement in a world model: chunks per second, who takes the time, and what 100 steps of the paper cost.

    benchmarks/rl.py                                   random small policy, random small world, on this CPU
    benchmarks/rl.py --world 2b --policy pi05 --device cuda --precision bf16

Weights are random: nothing here depends on their values. A judge that answers at once is used, so its share is what
handing it the videos costs; add your judge's own time per video with --judge-s. The projection multiplies: chunks of a
step = 256 rollouts / kept share of groups x 6 calls; updates = 2 epochs over 1536 policy calls.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # the smallest tokenisers are those of the tests

from benchmarks.policy import INSTRUCTION, PLAIN_INSTRUCTION, random_policy
from calibration.camera import PinholeCamera
from calibration.poses import inverse
from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.reward.judge import Verdict
from prophrl_models.rl.rollouts import RolloutWorker, Unit
from prophrl_models.rl.settings import RolloutOptions, UpdateOptions
from prophrl_models.rl.update import Updater, choose_parameters, rows_of
from prophrl_models.serving.engine import choose_device

PAPER_ROLLOUTS, PAPER_CALLS, PAPER_STEPS, PAPER_EPOCHS = 256, 6, 100, 2


class InstantJudge:
    """Says yes and no in turns."""

    name = "instant"

    def judge(self, videos: Sequence[NDArray[np.uint8]], tasks: Sequence[str]) -> list[Verdict]:
        return [Verdict(i % 2 == 0, 0.5, (i % 2 == 0,)) for i, _ in enumerate(videos)]


class Stopwatch:
    """Adds up the time inside methods of an object."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._inside = device, {"codec": 0.0}, False

    @contextmanager
    def timed(self, owner: Any, *names: str) -> Iterator[None]:
        """While it is open, calls of these methods count as the codec's."""
        originals = {name: getattr(owner, name) for name in names if hasattr(owner, name)}

        def wrapped(call: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                if self._inside:  # one of these methods calls another
                    return call(*args, **kwargs)
                self._inside, began_s = True, now_s(self.device)
                try:
                    return call(*args, **kwargs)
                finally:
                    self._inside = False
                    self.seconds["codec"] += now_s(self.device) - began_s

            return run

        for name, call in originals.items():
            setattr(owner, name, wrapped(call))
        try:
            yield
        finally:
            for name in originals:
                delattr(owner, name)


def now_s(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def random_world(name: str, device: torch.device, steps: int, batch: int) -> Any:
    """A world of a preset's sizes with random weights."""
    from prophrl_models.prophet.codec import build_codec
    from prophrl_models.prophet.network import Prophet
    from prophrl_models.prophet.sampler import Sampler
    from prophrl_models.prophet.worlds import ProphetWorld

    config = preset(name)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    with device:
        network = Prophet(config.network).eval().to(dtype)
        codec = build_codec(config.codec).eval()
    return ProphetWorld(Sampler(network, steps=steps, dtype=dtype), codec.to(device), config, batch=batch), codec


def starts(policy: FlowPolicy, kind: str, count: int) -> list[Prompt]:
    """Random pictures over one camera."""
    spec, random = policy.spec, np.random.default_rng(0)
    T_base_camera = np.diag([1.0, -1.0, -1.0, 1.0])
    T_base_camera[2, 3] = 1.0
    camera = PinholeCamera(200.0, 200.0, spec.image_width / 2, spec.image_height / 2, spec.image_width,
                           spec.image_height, inverse(T_base_camera))  # fmt: skip
    return [
        Prompt(
            random.integers(0, 256, (spec.image_height, spec.image_width, 3), dtype=np.uint8),
            np.array([0.0, 0.0, 0.2, 3.14, 0.0, 0.0, 1.0], dtype=np.float32),
            INSTRUCTION.get(kind, PLAIN_INSTRUCTION),
            camera,
            f"random {i}",
        )
        for i in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="tiny", choices=("tiny", "pi05", "vla_adapter", "openvla_oft"))
    parser.add_argument("--world", default="small", help="preset of the world model: tiny, small, base, 2b")
    parser.add_argument("--world-steps", type=int, default=10, help="passes of the world model for a chunk")
    parser.add_argument("--full", action="store_true", help="the policy at its published size")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--trainable", default="all", choices=("all", "head", "lora"))
    parser.add_argument("--groups", type=int, default=1, help="groups of 8 rolled out together")
    parser.add_argument("--calls", type=int, default=2, help="policy calls of each measured rollout")
    parser.add_argument("--runs", type=int, default=2, help="measured units, after one that is not")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--kept", type=float, default=0.4, help="share of groups kept, for the projection")
    parser.add_argument("--judge-s", type=float, default=0.0, help="seconds of your judge for a video")
    o = parser.parse_args()

    device = choose_device(o.device)
    policy = random_policy(o.policy, o.full, 20, device)
    update_options = UpdateOptions(
        micro_batch=o.micro_batch, epochs=1, trainable=o.trainable, precision=o.precision, learning_rate=1e-6
    )
    choose_parameters(policy, update_options)
    world, codec = random_world(o.world, device, o.world_steps, 8 * o.groups)
    policy.spec = replace(policy.spec, convention=world.convention)
    options = RolloutOptions(calls=o.calls, noise_level=0.7)
    worker = RolloutWorker(
        policy, world, InstantJudge(), starts(policy, o.policy, o.groups), options, precision=o.precision
    )
    watch = Stopwatch(device)
    rows = tuple(g for g in range(o.groups) for _ in range(8))
    spent = {"policy": 0.0, "world": 0.0, "judge": 0.0}
    for run in range(o.runs + 1):
        if run == 1:
            spent, watch.seconds = dict.fromkeys(spent, 0.0), {"codec": 0.0}
        with watch.timed(codec, "encode", "decode", "decode_last", "encode_groups"):
            found = worker.run(Unit(rows, tuple(1000 * run + i for i in range(len(rows)))))
        spent = {name: value + found.seconds[name] for name, value in spent.items()}
    chunks = o.runs * len(rows) * o.calls
    spent["world"] -= watch.seconds["codec"]
    spent["codec"] = watch.seconds["codec"]

    advantage = torch.where(found.success_B > 0, 1.0, -1.0)
    updater, learned = Updater(policy, update_options), rows_of(found, advantage, 0)
    began_s = now_s(device)
    updater.update(learned, mini_batches=1, seed=0)
    update_s = now_s(device) - began_s
    passes = len(learned)

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}, torch {torch.__version__}; {o.policy}, world {o.world} with {o.world_steps} passes, {len(rows)} rows"
    )
    rolled = sum(spent.values())
    print(f"rollouts: {chunks / rolled:.2f} chunks/s ({chunks} chunks in {rolled:.1f} s)")
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {part:<8}{seconds / rolled:6.1%}  {1e3 * seconds / chunks:9.1f} ms a chunk")
    print(f"update: {1e3 * update_s / passes:.1f} ms a policy call (old, reference and one gradient pass)")
    project(rolled / chunks, update_s / passes, o.kept, o.judge_s)


def project(chunk_s: float, update_s: float, kept: float, judge_s: float) -> None:
    """What the paper's run would cost on this machine, in words that can be checked."""
    rollouts = PAPER_ROLLOUTS / kept
    rolling = rollouts * PAPER_CALLS * chunk_s
    judging = rollouts * judge_s
    # The measured pass holds two recomputations and one gradient pass; more epochs repeat only the latter, which is
    # most of it. Counting all of it again is an upper bound.
    updating = PAPER_ROLLOUTS * PAPER_CALLS * update_s * PAPER_EPOCHS
    step = rolling + judging + updating
    print(
        f"one step: {PAPER_ROLLOUTS} / {kept:g} kept = {rollouts:.0f} rollouts x {PAPER_CALLS} calls x {chunk_s:.4f} s "
        f"= {rolling:.0f} s; judge {judging:.0f} s; update {PAPER_ROLLOUTS} x {PAPER_CALLS} calls x {PAPER_EPOCHS} "
        f"epochs x {update_s:.4f} s = {updating:.0f} s"
    )
    print(
        f"{PAPER_STEPS} steps: {PAPER_STEPS * step / 3600:.1f} hours on one such device (more devices divide rollouts)"
    )


if __name__ == "__main__":
    main()
