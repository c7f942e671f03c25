"""The benchmark's own claim at the smallest size: base and diffusers' transformer compute the same."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
import torch

from benchmarks.prophet import TOLERANCE, Bench, relative, without_torchvision
from prophrl_models.prophet.config import preset


@pytest.mark.parametrize("anchored", [False, True])
def test_base_equals_plain_and_every_way_makes_a_chunk(anchored: bool) -> None:
    without_torchvision()
    tiny = preset("tiny")
    config = replace(tiny, network=replace(tiny.network, anchored=anchored))
    bench = Bench(config, torch.device("cpu"), argparse.Namespace(steps=2, compile=False))
    inputs = bench.inputs(2)
    latents = {way: run(inputs)[0] for way, run in bench.ways(2).items()}
    assert set(latents) == {"plain", "base", "full", "world"}
    assert float(latents["plain"].std()) > 0.1
    assert relative(latents["base"], latents["plain"]) <= TOLERANCE[torch.float32]
    assert relative(latents["full"], latents["base"]) > 0.01
    assert latents["world"].shape == (2, 20, 32, 48, 3) and latents["world"].dtype is torch.uint8
