"""What the trainer asks of a policy with a large backbone: what LoRA adapts, what always trains, what repeats.

Parallel sharding, gradient checkpointing and low-rank adaptation all work on repeated layers. The defaults here read
them off the module tree; a policy overrides only what it knows better.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class BackboneMixin(nn.Module):
    """Second base of a ``FlowPolicy``: ``class Pi05Policy(BackboneMixin, FlowPolicy)``.

    Attributes:
        head_prefixes: beginnings of the names of parameters that are new and train in full, even under LoRA.
    """

    head_prefixes: tuple[str, ...] = ("head.",)

    def blocks(self) -> list[nn.Module]:
        """Repeated layers, in the order of execution as far as the module tree tells.

        Default: the entries of every outermost ``nn.ModuleList`` of two or more entries of one class.
        """
        found: list[nn.Module] = []

        def visit(module: nn.Module) -> None:
            for child in module.children():
                if isinstance(child, nn.ModuleList) and len(child) > 1 and len({type(entry) for entry in child}) == 1:
                    found.extend(child)
                else:
                    visit(child)

        visit(self)
        return found

    def head_parameters(self) -> list[str]:
        """Names of the parameters that always train. Default: those whose name begins with a head prefix."""
        return [name for name, _ in self.named_parameters() if name.startswith(self.head_prefixes)]

    def lora_targets(self) -> list[str]:
        """Module-name suffixes for ``peft.LoraConfig(target_modules=...)``.

        Default: the full names of all linear layers inside ``blocks`` that do not belong to the head, so that nothing
        is adapted because it happens to share a short name.
        """
        inside = {id(module) for block in self.blocks() for module in block.modules()}
        return [
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.Linear) and id(module) in inside and not name.startswith(self.head_prefixes)
        ]

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them; calling twice is harmless.

        Parameter names stay as they are. Blocks run as usual while gradients are off.
        """
        for block in self.blocks():
            if not isinstance(block.forward, partial):
                block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
