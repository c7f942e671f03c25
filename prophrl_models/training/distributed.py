"""One training run on several processes: who takes part, what is averaged, how a policy is spread over them.

One process is the normal case and needs none of this to be set up. Several are started by ``torchrun`` or
``accelerate launch``, one for each card; the policy's parameters are then sharded block by block (FSDP2).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process among all of a run.

    Attributes:
        rank, world: number of this process, and how many there are.
        device: where its part of the policy lives.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """True for the one process that writes logs and checkpoints."""
        return self.rank == 0

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value's mean over the processes; all must call it with the same names."""
        if self.world == 1:
            return dict(values)
        names = sorted(values)
        # MPS and some GPUs have no float64; the mean of a few losses needs none.
        total = torch.tensor([values[name] for name in names], dtype=torch.float32, device=self.device)
        dist.all_reduce(total)
        return dict(zip(names, (total / self.world).tolist(), strict=True))

    def wait(self) -> None:
        """Return when all processes have come this far."""
        if self.world > 1:
            dist.barrier()


ALONE = Processes()


def join() -> Processes:
    """Take part in the run that the launcher's environment describes; alone when there is none.

    The device is this process's own graphics card, or the CPU where there is none.

    Raises:
        RuntimeError: the processes of the launcher did not find each other.
    """
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if expected == 1:
        return Processes(device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    from accelerate import PartialState

    # Unless told that it is to use the CPU, accelerate makes every process on a machine without cards a run of its own.
    state: Any = PartialState(cpu=not torch.cuda.is_available())
    if int(state.num_processes) != expected:
        raise RuntimeError(
            f"the launcher says {expected} processes, {state.num_processes} found each other and would overwrite the "
            "others' files; start them with torchrun or accelerate launch"
        )
    return Processes(int(state.process_index), int(state.num_processes), torch.device(state.device))


def leave(processes: Processes) -> None:
    """End of the run for this process."""
    if processes.world > 1 and dist.is_initialized():
        dist.destroy_process_group()


def shard(policy: nn.Module, blocks: list[nn.Module], processes: Processes) -> None:
    """Spread a policy's parameters over all processes, block by block (FSDP2); alone, nothing happens.

    Blocks gather their weights when they run, each in its own type, and autocast decides about arithmetic: as on one
    card, so that norms and flow time keep their digits. Gradients are averaged in float32.
    """
    if processes.world == 1:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    as_stored = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mp_policy=as_stored)
    fully_shard(policy, mp_policy=as_stored)
    # The loop enters a policy through its loss, not through ``forward``: the root's weights must be gathered there.
    register_fsdp_forward_method(policy, "sft_loss")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; the tensor itself when it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every process must ask for the same tensors in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
