#!/usr/bin/env python3
"""Time of one world-model chunk (20 frames), next to the plain diffusers transformer and to the floor of arithmetic.

    benchmarks/prophet.py --preset tiny small                     on a CPU
    benchmarks/prophet.py --preset 2b --batch 1 4 8 16 --compile  on a CUDA GPU (240 x 320 pixels, bfloat16)
    benchmarks/prophet.py --preset 2b --steps 4 --compile         as a distilled network is sampled

Weights are random: nothing here depends on their values. The ways:

plain      diffusers' ``CosmosTransformer3DModel`` as it comes, eager: adaLN for every token, cross-attention to 512
           zero text tokens. It knows no actions and no history
base       our network with the same weights, inputs and noise; its latents must equal plain's. Of a preset that counts
           from the known frame (``anchored``), which diffusers' transformer cannot: without that, with other weights
full       our network with everything that Prophet adds: actions, action frames, memory computed once per chunk
compiled   full with torch.compile, and CUDA graphs on a GPU (``--compile``)
world      ``ProphetWorld.advance`` with full (or compiled) inside: also draws and encodes action frames, extends the
           history, and returns uint8 frames

plain, base and full encode the known frame (full also the action frames) and decode all frames; where the codec is
Wan's, plain uses diffusers' ``AutoencoderKLWan`` as it comes. All ways take turns in one run, so that load hits them
alike. The floor is the floating-point operations of full (network and codec) over the rate of a large matrix product
measured in the same run, or over ``--tflops``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import CosmosTransformer3DModel
from diffusers.models.transformers import transformer_cosmos
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from calibration.camera import PinholeCamera
from calibration.poses import inverse
from prophrl_models.prophet.codec import Codec, build_codec
from prophrl_models.prophet.config import PRESETS, ProphetConfig, preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.sampler import Sampler, denoise, draw_noise
from prophrl_models.prophet.worlds import ProphetWorld
from prophrl_models.serving.engine import choose_device

TEXT_TOKENS = 512
MILLI = 1e3
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 5e-2}
"""Largest relative difference (root mean square) between the latents of base and plain."""

Stages = dict[str, float]


def now_s(device: torch.device) -> float:
    """The clock, after everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class PlainNetwork:
    """diffusers' transformer with the weights of ours, called as its documentation does."""

    def __init__(self, network: Prophet, config: ProphetConfig, device: torch.device, dtype: torch.dtype) -> None:
        c = config.network
        with device:
            self.model = CosmosTransformer3DModel(
                in_channels=c.latent_channels + 1,
                out_channels=c.latent_channels,
                num_attention_heads=c.heads,
                attention_head_dim=c.head_dim,
                num_layers=c.blocks,
                mlp_ratio=c.mlp_ratio,
                text_embed_dim=c.text_dim,
                adaln_lora_dim=c.adaln_lora_dim,
                max_size=c.max_size,
                patch_size=c.patch,
                rope_scale=c.rope_scale,
                concat_padding_mask=True,
                extra_pos_embed_type=None,
            )
        self.model = self.model.to(dtype).eval()
        ours = network.state_dict()
        missing = [name for name in self.model.state_dict() if name not in ours]
        if any(".attn2." not in name and ".norm2." not in name for name in missing):
            raise RuntimeError(f"diffusers' transformer has other parameters than ours: {missing[:5]}")
        wanted = set(self.model.state_dict())
        self.model.load_state_dict({n: v for n, v in ours.items() if n in wanted}, strict=False)
        self.size = (config.image_height, config.image_width)
        self.text_dim, self.dtype = c.text_dim, dtype

    def velocity(self, latent_BCLHW: Tensor, t_BL: Tensor) -> Tensor:
        """Velocity of the noised clip; text is zero."""
        x = latent_BCLHW.to(self.dtype)
        mask = torch.zeros_like(x[:, :1])
        mask[:, :, 0] = 1.0
        text = x.new_zeros(len(x), TEXT_TOKENS, self.text_dim)
        out = self.model(
            x,
            t_BL[:, None, :, None, None],
            text,
            fps=None,
            condition_mask=mask,
            padding_mask=x.new_zeros(1, 1, *self.size),
            return_dict=False,
        )
        velocity: Tensor = out[0]
        return velocity.float()


def without_torchvision() -> None:
    """diffusers resizes the padding mask with torchvision; where that is not installed, do it with torch."""
    if getattr(transformer_cosmos, "transforms", None) is not None:
        return

    def resize(image: Tensor, size: list[int], interpolation: str) -> Tensor:
        return torch.nn.functional.interpolate(image, size, mode=interpolation)

    transformer_cosmos.transforms = SimpleNamespace(
        functional=SimpleNamespace(resize=resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )


class Bench:
    """One preset at one batch size: inputs, and every way to make a chunk from them."""

    def __init__(self, config: ProphetConfig, device: torch.device, options: argparse.Namespace) -> None:
        self.config, self.device = config, device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        with device:
            self.network, self.codec = Prophet(config.network), build_codec(config.codec)
            self.base = self.network
            if config.network.anchored:
                self.base = Prophet(dataclasses.replace(config.network, anchored=False))
        for network in {self.network, self.base}:
            with torch.no_grad():
                for parameter in network.parameters():  # layers that start at zero would hide differences
                    parameter.add_(0.02 * torch.randn_like(parameter))
            network.to(self.dtype).eval()
        self.codec = self.codec.to(self.dtype).eval()
        self.plain_codec = copy.deepcopy(self.codec)  # ours changes the layout of its weights
        self.plain = PlainNetwork(self.base, config, device, self.dtype)
        self.options = options

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs of one batch."""
        c, (h, w) = self.config, self.config.latent_size
        shape = (c.network.latent_channels, c.latent_frames, h, w)
        picture = (c.image_height, c.image_width, 3)
        generator = torch.Generator().manual_seed(batch)
        made = {
            "first": torch.randint(0, 256, (batch, 1, *picture), dtype=torch.uint8, generator=generator),
            "drawn": torch.randint(0, 256, (batch, 1 + c.network.actions, *picture), dtype=torch.uint8),
            "actions": torch.randn(batch, c.network.actions, c.network.action_dim, generator=generator),
            "noise": draw_noise(range(batch), shape),
        }
        if c.network.memory is not None:
            past = (batch, shape[0], c.network.memory.frames // 4, h, w)
            made["history"] = torch.randn(past, generator=generator)
        return {name: value.to(self.device) for name, value in made.items()}

    def ways(self, batch: int) -> dict[str, Callable[[dict[str, Tensor]], tuple[Tensor, Stages]]]:
        """Every way to make a chunk: inputs -> (latents or frames, times in ms)."""
        steps = self.options.steps
        schedule: Any = "flow" if steps <= 4 else "karras"
        eager = Sampler(self.network, steps=steps, schedule=schedule, dtype=self.dtype)
        chosen = eager

        def sampled(sampler: Sampler, streams: bool) -> Callable[[dict[str, Tensor]], tuple[Tensor, Stages]]:
            return lambda inputs: self._ours(sampler, inputs, streams)

        base = Sampler(self.base, steps=steps, schedule=schedule, dtype=self.dtype)
        ways = {"plain": lambda inputs: self._plain(base, inputs), "base": sampled(base, False)}
        ways["full"] = sampled(eager, True)
        if self.options.compile:
            graphs = self.device.type == "cuda"
            chosen = Sampler(
                self.network,
                steps=steps,
                schedule=schedule,
                batch=batch,
                compile=True,
                cuda_graphs=graphs,
                dtype=self.dtype,
            )
            ways["compiled"] = sampled(chosen, True)
        world = ProphetWorld(chosen, self.codec, self.config, batch=batch, over_known=self.codec.groupwise)
        ways["world"] = lambda inputs: self._world(world, inputs)
        return ways

    @torch.no_grad()
    def _plain(self, levels: Sampler, inputs: dict[str, Tensor]) -> tuple[Tensor, Stages]:
        marks = [now_s(self.device)]
        condition = _plain_encode(self.plain_codec, inputs["first"]).float()
        marks.append(now_s(self.device))
        latents = denoise(self.plain.velocity, condition, inputs["noise"], levels.sigmas, levels.solver)
        marks.append(now_s(self.device))
        _plain_decode(self.plain_codec, latents)
        marks.append(now_s(self.device))
        return latents, _stages(marks)

    @torch.no_grad()
    def _ours(self, sampler: Sampler, inputs: dict[str, Tensor], streams: bool) -> tuple[Tensor, Stages]:
        network = self.config.network
        marks = [now_s(self.device)]
        condition = self.codec.encode(inputs["first"]).float()
        drawn = None
        if streams and network.action_frames != "none":
            drawn = self.codec.encode(inputs["drawn"]).float()
        marks.append(now_s(self.device))
        latents = sampler.sample(
            condition,
            inputs.get("history") if streams else None,
            inputs["actions"] if streams and network.scalar_actions else None,
            drawn,
            latent_frames=self.config.latent_frames,
            noise_BCLHW=inputs["noise"],
        )
        marks.append(now_s(self.device))
        self.codec.decode_generated(latents)
        marks.append(now_s(self.device))
        return latents, _stages(marks)

    @torch.no_grad()
    def _world(self, world: ProphetWorld, inputs: dict[str, Tensor]) -> tuple[Tensor, Stages]:
        batch = len(inputs["first"])
        state = torch.tensor([[-0.65, 0.0, 0.2, np.pi, 0.0, np.pi / 2, 1.0]]).repeat(batch, 1)
        began = world.begin(
            inputs["first"][:, 0], state, cameras=[_camera(self.config)] * batch, seeds_B=list(range(batch))
        )
        actions = torch.zeros(batch, world.actions, 7)
        actions[..., 0] = 0.004
        start = now_s(self.device)
        _, frames = world.advance(began, actions, world.actions)
        return frames, {"total": MILLI * (now_s(self.device) - start)}

    @torch.no_grad()
    def flop(self, batch: int) -> float:
        """Floating-point operations of the way full."""
        inputs = self.inputs(batch)
        run = self.ways(batch)["full"]
        # The counter knows matrix products, not the fused attention of every device.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run(inputs)
        return float(counter.get_total_flops())


def _plain_encode(codec: Codec, frames_BTHW3: Tensor) -> Tensor:
    """Latents by diffusers' own path where there is one."""
    vae = getattr(codec, "vae", None)
    if vae is None:
        return codec.encode(frames_BTHW3)
    x = frames_BTHW3.permute(0, 4, 1, 2, 3).to(next(vae.parameters()).dtype) / 127.5 - 1.0
    mean, std = _wan_statistics(vae, x)
    latents: Tensor = (vae.encode(x).latent_dist.mode() - mean) / std
    return latents


def _plain_decode(codec: Codec, latent_BCLHW: Tensor) -> Tensor:
    vae = getattr(codec, "vae", None)
    if vae is None:
        return codec.decode_generated(latent_BCLHW)
    x = latent_BCLHW.to(next(vae.parameters()).dtype)
    mean, std = _wan_statistics(vae, x)
    pictures: Tensor = vae.decode(x * std + mean, return_dict=False)[0]
    return ((pictures.clamp(-1, 1) + 1.0) * 127.5).to(torch.uint8)


def _wan_statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    values = (vae.config.latents_mean, vae.config.latents_std)
    mean, std = (torch.tensor(v, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1) for v in values)
    return mean, std


def _stages(marks: list[float]) -> Stages:
    spans = dict(zip(("encode", "sample", "decode"), np.diff(marks) * MILLI, strict=True))
    return {**spans, "total": (marks[-1] - marks[0]) * MILLI}


def _camera(config: ProphetConfig) -> PinholeCamera:
    s = c = np.sqrt(0.5)
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = np.array([[0, -s, c], [-1, 0, 0], [0, -c, -s]])
    T_base_camera[:3, 3] = (-1.2, 0.0, 0.6)
    camera = PinholeCamera(212.0, 212.0, 159.5, 119.5, 320, 240, inverse(T_base_camera))
    return camera.resized(config.image_width, config.image_height)


def matrix_product_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of a large matrix product here, TFLOP/s."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = now_s(device)
        torch.mm(a, b)
        best = min(best, now_s(device) - start)
    return float(2 * size**3 / best / 1e12)


def benchmark(name: str, options: argparse.Namespace, device: torch.device) -> bool:
    """Print one preset's tables; whether base equals plain everywhere."""
    bench = Bench(preset(name), device, options)
    config, agree = bench.config, True
    rate = options.tflops or matrix_product_tflops(device, bench.dtype)
    count = sum(p.numel() for p in bench.network.parameters()) / 1e6
    print(f"\n{name}: {count:,.1f} M parameters, {config.image_width}x{config.image_height} pixels, ", end="")
    print(f"{config.network.actions} frames a chunk, {options.steps} steps, {bench.dtype}; ", end="")
    print(f"{'published' if options.tflops else 'measured'} peak {rate:.3g} TFLOP/s")
    best: dict[str, tuple[float, int]] = {}
    for batch in options.batch:
        inputs, ways = bench.inputs(batch), bench.ways(batch)
        latents: dict[str, Tensor] = {}
        for way, run in ways.items():
            for _ in range(options.warm_up):
                latents[way] = run(inputs)[0]
        took: dict[str, list[Stages]] = {way: [] for way in ways}
        for _ in range(options.runs):
            for way, run in ways.items():
                took[way].append(run(inputs)[1])
        apart = relative(latents["base"], latents["plain"])
        agree &= apart <= TOLERANCE[bench.dtype]
        print_table(took, batch, bench.flop(batch) / (rate * 1e12) * MILLI)
        print(f"base against plain: latents differ by {apart:.1e} (root mean square, relative; ", end="")
        print(f"{'equal' if apart <= TOLERANCE[bench.dtype] else 'NOT equal'} to {TOLERANCE[bench.dtype]:g})")
        if bench.base is bench.network:
            print(f"full against base: {relative(latents['full'], latents['base']):.1e} (what the streams change)")
        if "compiled" in latents:
            print(f"compiled against full: {relative(latents['compiled'], latents['full']):.1e}")
        for way, stages in took.items():
            each = float(np.median([s["total"] for s in stages])) / batch
            best[way] = min(best.get(way, (float("inf"), 0)), (each, batch))
    print("best batch, ms a chunk: ", end="")
    print(", ".join(f"{way} {each:.1f} (batch {batch})" for way, (each, batch) in best.items()))
    plain = best["plain"][0]
    print("times as fast as plain at its best batch: ", end="")
    print(", ".join(f"{way} {plain / each:.2f}" for way, (each, _) in best.items() if way != "plain"))
    return agree


def relative(a: Tensor, b: Tensor) -> float:
    """Root mean square of a - b over that of b."""
    return float((a.float() - b.float()).square().mean().sqrt() / b.float().square().mean().sqrt())


def print_table(took: dict[str, list[Stages]], batch: int, floor_ms: float) -> None:
    """Medians in ms, ratios to plain, and the share of the peak rate (MFU of full's work)."""
    print(
        f"| batch {batch:<3} | encode ms | sample ms | decode ms | total p50 | total p90 | ms each | x plain |   MFU |"
    )
    plain = float(np.median([stages["total"] for stages in took["plain"]]))
    for way, stages in took.items():
        middle = {k: float(np.median([s[k] for s in stages])) for k in stages[0]}
        p90 = float(np.quantile([s["total"] for s in stages], 0.9))
        cells = "".join(
            f" {middle[k]:9.1f} |" if k in middle else f" {'':>9} |" for k in ("encode", "sample", "decode")
        )
        share = f"{100 * floor_ms / middle['total']:5.0f} %" if way not in ("plain", "base") else f"{'':>7}"
        total = middle["total"]
        print(f"| {way:<9} |{cells} {total:9.1f} | {p90:9.1f} | {total / batch:7.1f} | {plain / total:7.2f} |{share} |")
    cells = f"{'':>36} {floor_ms:9.1f} |{'':>11}| {floor_ms / batch:7.1f} | {plain / floor_ms:7.2f} |"
    print(f"| {'floor':<9} |{cells}{'':>8}|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=PRESETS, help="default: tiny and small; 2b on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="chunks made together")
    parser.add_argument("--steps", type=int, default=10, help="passes of the network for a chunk")
    parser.add_argument("--runs", type=int, default=10, help="measured chunks of each way")
    parser.add_argument("--warm-up", type=int, default=2, help="chunks before, not measured")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile (minutes of compiling)")
    parser.add_argument("--tflops", type=float, help="the card's published dense peak, TFLOP/s (default: measured)")
    options = parser.parse_args()
    if min(*options.batch, options.steps, options.runs, options.warm_up, options.batch[0]) < 1:
        parser.error("--batch, --steps, --runs and --warm-up must be at least 1")
    device = choose_device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, {options.runs} chunks each way")
    without_torchvision()
    names = options.preset or (["2b"] if device.type == "cuda" else ["tiny", "small"])
    agree = [benchmark(name, options, device) for name in names]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
