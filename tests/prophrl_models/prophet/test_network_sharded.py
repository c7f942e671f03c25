"""The network on two processes (FSDP2, gloo, CPU) trains and remembers as on one.

The file is also the program that the processes run.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from prophrl_models.prophet.config import MemoryConfig, NetworkConfig
from prophrl_models.prophet.network import Prophet
from prophrl_models.training.distributed import whole

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = NetworkConfig(
    width=64,
    heads=2,
    head_dim=32,
    blocks=2,
    adaln_lora_dim=16,
    text_dim=24,
    action_frames="pooled",
    memory=MemoryConfig(strides=((1, 2, 2), (1, 2, 3), (1, 4, 6)), gated=True),
)
ROWS, STEPS = 4, 4


def train(out: Path) -> None:
    """A few steps on rows that the processes share; the main process writes all parameters, losses and a memory."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    torch.manual_seed(0)
    network = Prophet(CONFIG)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.enable_gradient_checkpointing()
    if world > 1:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        dist.init_process_group("gloo")
        for block in network.blocks_list():
            fully_shard(block)
            register_fsdp_forward_method(block, "remember")
        fully_shard(network)
        register_fsdp_forward_method(network, "remember")
    # Not Adam: it scales rounding noise of the smallest gradients up to full steps, differently on every machine.
    optimiser = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.5)
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    losses = []
    for _ in range(STEPS):
        generator = torch.Generator().manual_seed(1)  # the same rows every time, so that the loss must fall
        latent = torch.randn(ROWS, 16, 6, 4, 6, generator=generator)
        t_BL = torch.rand(ROWS, 6, generator=generator)
        streams = {
            "actions_BAX": torch.randn(ROWS, 20, 14, generator=generator),
            "frame_latent_BCLHW": torch.randn(ROWS, 16, 6, 4, 6, generator=generator),
            "history_BCMHW": torch.randn(ROWS, 16, 15, 4, 6, generator=generator),
        }
        optimiser.zero_grad()
        out_BCLHW = network(latent[mine], t_BL[mine], **{name: value[mine] for name, value in streams.items()})
        loss = (out_BCLHW - latent[mine].flip(2)).square().mean()
        loss.backward()
        optimiser.step()
        total = loss.detach().clone()
        if world > 1:
            dist.all_reduce(total)
        losses.append(total / world)
    state: dict[str, Tensor] = {name: whole(p.detach()) for name, p in network.named_parameters()}
    with torch.no_grad():
        memory = network.remember(torch.randn(ROWS, 16, 15, 4, 6, generator=torch.Generator().manual_seed(9)))
    if rank == 0:
        kept = {"losses": torch.stack(losses), "memory": torch.stack([*memory.keys, *memory.values])}
        save_file({name: value.contiguous() for name, value in (state | kept).items()}, out)
    if world > 1:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).parents[3]
    running = []
    for name, rank, world in (("one", 0, 1), ("two", 0, 2), ("two", 1, 2)):
        place = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = {**os.environ, **place, "PYTHONPATH": str(root)}
        command = [sys.executable, __file__, str(tmp_path / f"{name}.safetensors")]
        running.append(subprocess.Popen(command, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True))
    for process in running:
        words, _ = process.communicate(timeout=500)
        assert process.returncode == 0, words
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert set(one) == set(two) and set(dict(Prophet(CONFIG).named_parameters())) < set(one)
    assert one["losses"][-1] < one["losses"][0]
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


if __name__ == "__main__":
    train(Path(sys.argv[1]))
