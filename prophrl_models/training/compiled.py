"""The repeated blocks of a network as fused kernels (torch.compile), where this machine can make such kernels.

On a CPU half of a training step of a small network is additions and products that each read and write all tokens;
compiled, a block does them in a few sweeps. Blocks of one kind share what was compiled: 20 s for each shape that
occurs, kept on the disk by torch for the next run.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException


def compile_blocks(blocks: Iterable[nn.Module], device: torch.device) -> str:
    """Compile the forward passes in place; parameters keep their names. Returns why it was not done, or nothing."""
    trouble = _trouble(device)
    if not trouble:
        for block in blocks:
            block.compile(dynamic=False)
    return trouble


def _trouble(device: torch.device) -> str:
    """Tried with one number: a compiler, its headers or a folder to write to can each be missing."""
    try:
        torch.compile(_probe)(torch.zeros(2, device=device))
    except (TorchDynamoException, OSError) as error:
        return str(error).strip().splitlines()[0]
    return ""


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x.cos()
