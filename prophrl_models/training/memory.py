"""How much memory a training step needs: an estimate, counted on the modules themselves without computing anything.

Weights, gradients and optimiser state are exact arithmetic. Activations are the tensors that one forward pass keeps for
the backward pass, found by running it on tensors without content. What a CUDA context, workspaces and fragmentation
take comes on top (one to two GB), so all of this is called an estimate; only a run on a card measures.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from prophrl_models.policies.interface import FlowPolicy, Inputs, TrainingBatch

GB = 1e9
OVERHEAD_BYTES = int(1.5 * GB)
"""CUDA context, cuBLAS workspaces, fragmentation; typical, not measured here."""


@dataclass(frozen=True)
class Activations:
    """Bytes that one batch keeps between forward and backward.

    Attributes:
        kept: everything, without gradient checkpointing.
        checkpointed: with it: what lies outside the blocks, the blocks' inputs, and one block that is recomputed.
    """

    kept: int
    checkpointed: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each card; ``activations`` is None where the policy could not be run without content."""

    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int | None
    reason: str = ""

    @property
    def total(self) -> int:
        """Sum of what is known, with the overhead of a card."""
        return self.weights + self.gradients + self.optimiser + self.average + (self.activations or 0) + OVERHEAD_BYTES

    def describe(self, card_bytes: int | None = None) -> str:
        """One line for the start of a run."""
        parts = [f"{name} {getattr(self, name) / GB:.2f}" for name in ("weights", "gradients", "optimiser", "average")]
        if self.activations is None:
            parts.append(f"activations unknown ({self.reason})")
        else:
            parts.append(f"activations {self.activations / GB:.2f}")
        line = f"memory (estimated, GB): {', '.join(parts)}, overhead {OVERHEAD_BYTES / GB:.1f}: {self.total / GB:.1f}"
        if card_bytes is None:
            return line + "; no graphics card here to compare with"
        verdict = "fits" if self.total <= card_bytes else "does NOT fit: lower micro_batch, or train: lora"
        return f"{line}; the card has {card_bytes / GB:.1f}: {verdict}"


def estimate(
    policy: nn.Module, *, average: bool, world: int = 1, activations: int | None = None, reason: str = ""
) -> MemoryEstimate:
    """Estimate for a policy whose parameters are frozen and cast as they will be trained.

    Args:
        average: a moving average of the weights is kept.
        world: cards over which parameters are sharded.
        activations: of one batch, see ``count_activations``.
    """
    weights = sum(p.numel() * p.element_size() for p in policy.parameters())
    trained = sum(p.numel() * p.element_size() for p in policy.parameters() if p.requires_grad)
    kept = trained // world if average else 0
    return MemoryEstimate(weights // world, trained // world, 2 * trained // world, kept, activations, reason)


def try_activations(
    policy: FlowPolicy, blocks: list[nn.Module], batch: TrainingBatch, autocast: AbstractContextManager[Any]
) -> tuple[Activations | None, str]:
    """``count_activations``, or the reason why this policy cannot be run on tensors without content."""
    try:
        return count_activations(policy, blocks, batch, autocast), ""
    except (RuntimeError, NotImplementedError) as error:  # what fake and meta tensors raise where values are needed
        return None, str(error).partition("\n")[0][:120]


def count_activations(
    policy: FlowPolicy,
    blocks: list[nn.Module],
    batch: TrainingBatch,
    autocast: AbstractContextManager[Any] | None = None,
) -> Activations:
    """Count what a forward pass of ``batch`` saves; nothing is computed. Blocks must not be checkpointed yet.

    Parameters must have storage: on the meta device attention runs unfused and keeps whole attention matrices, which
    no card would.

    Raises:
        RuntimeError: the forward pass needs values, not only shapes, or the policy is on the meta device.
    """
    if any(p.is_meta for p in policy.parameters()):
        raise RuntimeError("a policy on the meta device keeps unfused attention; count one whose weights are in memory")
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, autocast or nullcontext():
        return _count(policy, blocks, _map(batch, fake.from_tensor), fake.from_tensor)


def count_real_activations(policy: FlowPolicy, blocks: list[nn.Module], batch: TrainingBatch) -> Activations:
    """The same count on a real forward pass (to check the one without content)."""
    return _count(policy, blocks, batch)


def _count(
    policy: FlowPolicy, blocks: list[nn.Module], batch: TrainingBatch, convert: Callable[[Tensor], Tensor] | None = None
) -> Activations:
    # Without content a parameter has a stand-in with a storage of its own; ``convert`` gives the same one as long as
    # it is alive, so they are held until the count is done.
    held = [convert(p) if convert else p for p in [*policy.parameters(), *policy.buffers()]]
    own = {_storage(p) for p in held}
    # By storage; the tensors are held because a freed storage's key would be given to another one.
    saved: dict[int, tuple[Tensor, int]] = {}  # with the block it was first saved in; -1: none
    inputs: dict[int, Tensor] = {}
    inside = [-1]
    handles = []

    def pack(tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in own:
            saved.setdefault(key, (tensor, inside[-1]))
        return tensor

    def enter(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            for value in (*arguments, *named.values()):
                if isinstance(value, Tensor):
                    inputs[_storage(value)] = value
            inside.append(number)

        return hook

    def leave(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        inside.pop()

    for number, block in enumerate(blocks):
        handles += [
            block.register_forward_pre_hook(enter(number), with_kwargs=True),
            block.register_forward_hook(leave),
        ]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = policy.sft_loss(batch)["loss"]
    finally:
        for handle in handles:
            handle.remove()
    by_block = [0] * len(blocks)
    outside = 0
    for key, (tensor, number) in saved.items():
        if number >= 0:
            by_block[number] += _bytes(tensor)
        elif key not in inputs:
            outside += _bytes(tensor)
    kept = sum(_bytes(tensor) for tensor, _ in saved.values())
    checkpointed = outside + sum(map(_bytes, inputs.values())) + max(by_block, default=0)
    del loss, held
    return Activations(kept, min(kept, checkpointed))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())


def _map(batch: TrainingBatch, convert: Callable[[Tensor], Tensor]) -> TrainingBatch:
    moved: dict[str, Any] = {
        f.name: convert(value) for f in fields(TrainingBatch) if isinstance(value := getattr(batch, f.name), Tensor)
    }
    inputs = Inputs(*(convert(getattr(batch.inputs, f.name)) for f in fields(Inputs)))
    return replace(batch, inputs=inputs, **moved)
