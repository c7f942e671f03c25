#!/usr/bin/env python3
"""Latency of one action chunk, by stage, for every kind of policy, next to plain eager code and to the card's floor.

    benchmarks/policy.py --tflops 989 --bandwidth 3.35      full size on a CUDA GPU (the figures of an H100 SXM, bf16)
    benchmarks/policy.py                                    the smallest sizes where there is no GPU

Weights are random: nothing here depends on their values. *eager* is ``FlowPolicy.sample_actions`` as a reader would
call it; *engine* is what ``prophrl serve`` runs (prompts cut to what they use, CUDA graphs on a GPU); *guided* is the
same for a chunk that continues another (real-time chunking: plain calls, with a gradient in each step); *compiled* adds
torch.compile to the engine. All take turns in one run, so that load hits them alike. The floor of a stage is the larger
of its floating-point operations over the card's peak and the bytes it must read (its weights once per pass, and the
condition once per denoising step) over the card's bandwidth; kernels that round, mask and normalise come on top.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # the smallest tokenisers are those of the tests

from calibration.poses import ActionConvention
from prophrl_models.policies.chunking import Committed
from prophrl_models.policies.interface import Cond, FlowPolicy, ObservationBatch, PolicySpec, Scaling
from prophrl_models.policies.load import KINDS, builder
from prophrl_models.policies.pi05_config import Pi05Config
from prophrl_models.serving.engine import PolicyEngine, PolicyRequest, choose_device
from prophrl_models.serving.protocol import ReceivedObservation
from prophrl_models.serving.stages import trim_text
from tests.helpers import pi05, tiny_tokenizer

INSTRUCTION = {"pi05": "put the red cube into the bowl", "tiny": "put the red cube into the bowl"}
PLAIN_INSTRUCTION = "pick up the red cube"
PLAIN_PROMPT = "In: What action should the robot take to {task}?\nOut:"
MILLI = 1e3


def specification(chunk: int) -> PolicySpec:
    """A robot's: one camera, seven numbers per action."""
    scaling = Scaling((0.0,) * 7, (0.01,) * 7)
    return PolicySpec(ActionConvention.ABSOLUTE_POSE_DIFFERENCE, scaling, scaling, chunk=chunk, num_steps=10)


def random_policy(kind: str, full: bool, chunk: int, device: torch.device) -> FlowPolicy:
    """A policy of a kind at its published (bfloat16) or its smallest (float32) size, built where it will run."""
    from prophrl_models.policies.openvla_oft import OpenVlaOftConfig
    from prophrl_models.policies.tiny import TinyConfig
    from prophrl_models.policies.vla_adapter import VlaAdapterConfig

    configs: dict[str, Any] = {
        "tiny": TinyConfig(),
        "pi05": Pi05Config.full() if full else Pi05Config.tiny(),
        "vla_adapter": VlaAdapterConfig.full() if full else VlaAdapterConfig.tiny(),
        "openvla_oft": OpenVlaOftConfig.full() if full else OpenVlaOftConfig.tiny(),
    }
    if kind == "vla_adapter":  # the published prompt needs the published tokeniser; this one has as many words
        configs[kind] = replace(configs[kind], prompt=PLAIN_PROMPT)
    bos = kind == "openvla_oft"
    tokenizer = pi05.tokenizer_json() if kind == "pi05" else tiny_tokenizer.tokenizer_json(bos=bos)
    assets = {} if kind == "tiny" else {"tokenizer.json": tokenizer}
    torch.manual_seed(0)
    with device:
        return builder(kind)(specification(chunk), asdict(configs[kind]), assets).eval()


def observation(kind: str, seed: int) -> ReceivedObservation:
    """A random picture and state."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    state = random.normal(scale=0.005, size=7).astype(np.float32)
    return ReceivedObservation(image, state, INSTRUCTION.get(kind, PLAIN_INSTRUCTION))


class Eager:
    """The plain way, stage by stage."""

    def __init__(self, policy: FlowPolicy, device: torch.device) -> None:
        self._policy, self._device = policy, device

    @torch.no_grad()
    def answer(self, requests: list[PolicyRequest]) -> dict[str, float]:
        policy, marks = self._policy, [_now_s(self._device)]
        inputs = policy.prepare(ObservationBatch.of([request.observation for request in requests]))
        inputs = type(inputs)(*(getattr(inputs, n).to(self._device) for n in ("image", "state_B7", "text")))
        marks.append(_now_s(self._device))
        cond = policy.embed(inputs)
        marks.append(_now_s(self._device))
        policy.sample_actions(cond)[0].cpu()
        marks.append(_now_s(self._device))
        stages = dict(zip(("prepare_ms", "encode_ms", "sample_ms"), np.diff(marks) * MILLI, strict=True))
        return {**stages, "total_ms": (marks[-1] - marks[0]) * MILLI}


class WeightsRead(TorchDispatchMode):
    """Bytes of the parameters that operations take; rows looked up in an embedding are too few to count."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._sizes = {p.data_ptr(): p.numel() * p.element_size() for p in module.parameters()}
        self._seen: set[int] = set()

    @property
    def total(self) -> int:
        return sum(self._sizes[pointer] for pointer in self._seen)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "embedding" not in function.overloadpacket.__name__:
            tensors = [x for x in args if isinstance(x, torch.Tensor)]
            self._seen |= {x.data_ptr() for x in tensors if x.data_ptr() in self._sizes}
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Work:
    """What a stage must do: floating-point operations and bytes read."""

    flop: float
    bytes_read: float

    def floor_ms(self, tflops: float, bandwidth_tbs: float) -> float:
        return MILLI * max(self.flop / (tflops * 1e12), self.bytes_read / (bandwidth_tbs * 1e12))


@torch.no_grad()
def measure_work(policy: FlowPolicy, requests: list[PolicyRequest], device: torch.device) -> tuple[Work, Work, int]:
    """Work of encode and of all K denoising steps, and the tokens of the prompt that are read."""
    prepared = policy.prepare(ObservationBatch.of([request.observation for request in requests]))
    inputs = trim_text(prepared)
    inputs = type(inputs)(*(getattr(inputs, n).to(device) for n in ("image", "state_B7", "text")))
    x, t = policy.draw_noise(len(requests)), torch.ones(len(requests), device=device)

    def encode() -> Cond:
        return policy.ready(policy.embed(inputs))

    cond = encode()
    works = []
    stages: tuple[tuple[Callable[[], Any], int], ...] = (
        (encode, 1),
        (lambda: policy.velocity(cond, x, t), policy.spec.num_steps),
    )
    for run, times in stages:
        with FlopCounterMode(display=False) as counter:
            run()
        with WeightsRead(policy) as read:
            run()
        works.append((times * counter.get_total_flops(), times * read.total))
    condition = sum(v.numel() * v.element_size() for v in (cond.tokens_BNE, *cond.extras.values()))
    encode_work, (flop, weights) = Work(*works[0]), works[1]
    return encode_work, Work(flop, weights + policy.spec.num_steps * condition), int((inputs.text >= 0).sum(1).max())


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Peak of the GPU's allocated memory in GB since the beginning; NaN on a CPU."""
    if device.type != "cuda":
        yield lambda: float("nan")
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) / 1e9


def _now_s(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def benchmark(kind: str, options: argparse.Namespace, device: torch.device) -> None:
    """Print one kind's table."""
    full = device.type == "cuda" if options.size == "auto" else options.size == "full"
    policy = random_policy(kind, full, options.chunk, device)
    count = sum(p.numel() for p in policy.parameters())
    held = sum(p.numel() * p.element_size() for p in policy.parameters()) / 1e9
    encode, denoise, tokens = measure_work(policy, _requests(kind, 0, options.batch), device)
    print(
        f"\n{kind}: {count / 1e6:,.1f} M parameters, {held:.3f} GB, chunk {options.chunk}, K {policy.spec.num_steps}, "
    )
    print(f"batch {options.batch}, prompt {tokens} tokens; encode {encode.flop / 1e12:.4f} TFLOP, ", end="")
    print(f"denoise {denoise.flop / 1e12:.4f} TFLOP and {denoise.bytes_read / 1e9:.3f} GB")

    eager = Eager(policy, device)
    ways: dict[str, Callable[[list[PolicyRequest]], dict[str, float]]] = {"eager": eager.answer}
    ways["engine"] = _engine(policy, device, options.batch, compile=False)
    ways["guided"] = _engine(policy, device, options.batch, compile=False, guided=True)
    if options.compile:
        ways["compiled"] = _engine(policy, device, options.batch, compile=True)
    peaks = {}
    for way, answer in ways.items():  # one after the other: what a later way keeps is not in an earlier one's peak
        with peak_memory(device) as peak:
            for run in range(options.warm_up):
                answer(_requests(kind, run, options.batch))
            peaks[way] = peak()
    took: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for run in range(options.runs):
        for way, answer in ways.items():
            took[way].append(answer(_requests(kind, options.warm_up + run, options.batch)))
    _print_table(took, peaks, (encode, denoise), options)


def _engine(
    policy: FlowPolicy, device: torch.device, batch: int, compile: bool, guided: bool = False
) -> Callable[[list[PolicyRequest]], dict[str, float]]:
    policy.requires_grad_(False)  # as a loaded checkpoint is
    engine = PolicyEngine(policy, device, compile=compile, max_batch=batch)
    rows = np.zeros((policy.spec.chunk // 2, policy.spec.action_dim), dtype=np.float32)
    committed = Committed(rows, frozen=3) if guided else None
    return lambda requests: engine.answer([replace(r, committed=committed) for r in requests])[0].timing


def _requests(kind: str, seed: int, batch: int) -> list[PolicyRequest]:
    return [PolicyRequest(observation(kind, batch * seed + i), seed + i) for i in range(batch)]


def _print_table(
    took: dict[str, list[dict[str, float]]],
    peaks: dict[str, float],
    work: tuple[Work, Work],
    options: argparse.Namespace,
) -> None:
    stages = ("prepare_ms", "encode_ms", "sample_ms", "total_ms")
    heads = "".join(f" {stage[:-3] + ' p50':>12} {'p99':>8} |" for stage in stages)
    print(f"| {'way':<9}|{heads} {'x eager':>8} | {'peak GB':>8} |")
    eager_ms = float(np.median([timing["total_ms"] for timing in took["eager"]]))
    for way, timings in took.items():
        cells = ""
        for stage in stages:
            p50, p99 = np.quantile([timing[stage] for timing in timings], [0.5, 0.99])
            cells += f" {p50:12.2f} {p99:8.2f} |"
        ratio = eager_ms / float(np.median([timing["total_ms"] for timing in timings]))
        print(f"| {way:<9}|{cells} {ratio:7.2f}x | {peaks[way]:8.2f} |")
    if options.tflops and options.bandwidth:
        encode, sample = (stage.floor_ms(options.tflops, options.bandwidth) for stage in work)
        floors = "".join(f" {value:12.2f} {'':>8} |" for value in (0.0, encode, sample, encode + sample))
        print(f"| {'floor':<9}|{floors} {eager_ms / (encode + sample):7.2f}x | {'':>8} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--size", default="auto", choices=("auto", "full", "tiny"), help="auto: full on a GPU")
    parser.add_argument("--runs", type=int, default=50, help="measured chunks of each way")
    parser.add_argument("--warm-up", type=int, default=5, help="chunks before, not measured")
    parser.add_argument("--batch", type=int, default=1, help="robots answered together")
    parser.add_argument("--chunk", type=int, default=20, help="actions in a chunk")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile (minutes of compiling)")
    parser.add_argument(
        "--tflops", type=float, help="the card's published dense peak in the policy's precision, TFLOP/s"
    )
    parser.add_argument("--bandwidth", type=float, help="its published memory bandwidth, TB/s")
    options = parser.parse_args()
    device = choose_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {options.runs} chunks each way, milliseconds")
    for kind in options.kinds:
        benchmark(kind, options, device)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
