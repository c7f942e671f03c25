"""Fine-tuning by low-rank adapters: LoRA in every block's attention and feed-forward, and the new modules in full.

The same machinery as for policies (``training.lora``); here are Prophet's choices: rank 16, alpha 16, and all of the
network's ``new_parameters`` train besides. NVIDIA's recipe adapts cross-attention too; it is left out, because with
the zero text embedding it is never reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from prophrl_models.prophet.network import Prophet
from prophrl_models.training.distributed import whole
from prophrl_models.training.lora import LoraOptions, choose_trained, load_adapter, merged_state, save_adapter

DEFAULT = LoraOptions(rank=16, alpha=16)


def add_adapters(network: Prophet, options: LoraOptions = DEFAULT) -> None:
    """Insert adapters that start without effect; afterwards only they and the new modules train.

    Raises:
        TrainingError: the network has no new modules.
    """
    choose_trained(network, "lora", options)


def save_adapters(folder: Path, network: Prophet, base: Mapping[str, object], options: LoraOptions = DEFAULT) -> None:
    """Write what ``add_adapters`` trains into a folder, atomically.

    Args:
        base: which weights the adapters belong to, for whoever reads the file.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    save_adapter(folder, {name: whole(p.detach()).cpu() for name, p in trained.items()}, options, base)


def load_adapters(network: Prophet, folder: Path) -> LoraOptions:
    """Insert stored adapters and new modules into a network that holds the weights they were trained on.

    Raises:
        TrainingError: files are missing or belong to another architecture.
    """
    return load_adapter(network, folder)


def merged(network: Prophet) -> Prophet:
    """A network without adapters that answers as this one does, on the same device, in eval mode.

    The sum is formed in float32 and rounded once to each layer's own type.
    """
    state = merged_state(network)
    with torch.device("meta"):
        plain = Prophet(network.config)
    device = next(network.parameters()).device
    plain.load_state_dict({name: value.to(device) for name, value in state.items()}, assign=True)
    return plain.eval()
