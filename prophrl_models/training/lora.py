"""What of a policy trains: everything, its head, or its head and low-rank adapters in its backbone (LoRA).

Adapters live in a policy only while it trains. A checkpoint holds merged weights, so whoever serves it needs to know
nothing about adapters; the adapters themselves are stored beside it, because merged into bfloat16 weights they lose
digits, and because a later training may want to go on from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prophrl_models.data.files import write_json
from prophrl_models.training.checkpoint import write_atomically
from prophrl_models.training.distributed import whole
from prophrl_models.training.settings import TrainingError

What = Literal["full", "lora", "head"]
ADAPTER_FILE, ADAPTER_CONFIG = "adapter.safetensors", "adapter.json"
NAME = "default"  # peft's name of the only adapter


@runtime_checkable
class Trainable(Protocol):
    """What the trainer asks of a policy beyond ``FlowPolicy``; ``policies.backbone`` gives defaults."""

    def lora_targets(self) -> list[str]: ...

    def head_parameters(self) -> list[str]: ...

    def blocks(self) -> list[nn.Module]: ...

    def enable_gradient_checkpointing(self) -> None: ...


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters: W + alpha / rank * B A, with A [rank, inputs], B [outputs, rank].

    Attributes:
        rank, alpha: see above; alpha = rank adds B A as it is.
        dropout: fraction of inputs that adapters do not see in training.
    """

    rank: int = 32
    alpha: int = 32
    dropout: float = 0.0


def trainable(policy: nn.Module) -> Trainable:
    """The policy, as the trainer sees it.

    Raises:
        TrainingError: it does not say what is what.
    """
    if not isinstance(policy, Trainable):
        raise TrainingError(
            f"{type(policy).__name__} does not say what of it is head and what is backbone (see policies/backbone.py); "
            "this trainer is for the policies with a large backbone"
        )
    return policy


def choose_trained(policy: nn.Module, what: What, lora: LoraOptions) -> None:
    """Freeze what does not train; for "lora" insert adapters (B starts at zero: the policy answers as before).

    Raises:
        TrainingError: unknown choice, or the policy has no head or no layer to adapt.
    """
    if what not in get_args(What):
        raise TrainingError(f"train must be one of {', '.join(get_args(What))}, got {what!r}")
    parts = trainable(policy)
    if what == "full":
        policy.requires_grad_(True)
        return
    heads, targets = set(parts.head_parameters()), parts.lora_targets()
    if not heads:
        raise TrainingError(f"{type(policy).__name__} names no head parameters; train it with train: full")
    if what == "lora":
        if not targets:
            raise TrainingError(f"{type(policy).__name__} names no layers to adapt; use train: full or train: head")
        _insert(policy, targets, lora)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in heads or (what == "lora" and ".lora_" in name))


def _insert(policy: nn.Module, targets: list[str], options: LoraOptions) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets, bias="none"
    )
    inject_adapter_in_model(config, policy, adapter_name=NAME)


def merged_state(policy: nn.Module, *, halve: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    """State of the policy without adapters: original names, adapters added to their layers, everything on the CPU.

    The sum is formed in float32 and rounded once to the layer's own type. All processes of a run must call this
    together.

    Args:
        halve: original names of parameters to be stored in bfloat16.
    """
    from peft.tuners.lora import LoraLayer

    scale = {name: m.scaling[NAME] for name, m in policy.named_modules() if isinstance(m, LoraLayer)}
    state: dict[str, Tensor] = {}
    factors: dict[str, dict[str, Tensor]] = {}
    for name, value in policy.state_dict().items():
        value = whole(value.detach()).cpu()
        layer, _, rest = name.partition(".lora_")
        if rest:
            factors.setdefault(layer, {})[rest[0]] = value.float()  # "A.default.weight" or "B.default.weight"
        else:
            state[name.replace(".base_layer.", ".")] = value
    for layer, factor in factors.items():
        weight = state[f"{layer}.weight"]
        added = weight.float() + scale[layer] * (factor["B"] @ factor["A"])
        state[f"{layer}.weight"] = added.to(weight.dtype)
    return {name: value.bfloat16() if name in halve else value for name, value in state.items()}


def save_adapter(folder: Path, tensors: Mapping[str, Tensor], options: LoraOptions, base: Mapping[str, object]) -> None:
    """Write trained tensors (adapters and heads, as named in the policy with adapters) into a folder, atomically.

    Args:
        base: which weights they belong to, for whoever reads the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value.contiguous() for name, value in tensors.items()}
    write_atomically(folder / ADAPTER_FILE, lambda path: save_file(kept, path, metadata={"format": "pt"}))
    write_json(folder / ADAPTER_CONFIG, {"lora": asdict(options), "base": dict(base)})


def load_adapter(policy: nn.Module, folder: Path) -> LoraOptions:
    """Insert stored adapters and heads into a policy that holds the weights they were trained on.

    Raises:
        TrainingError: files are missing or belong to another architecture.
    """
    try:
        options = LoraOptions(**json.loads((folder / ADAPTER_CONFIG).read_text())["lora"])
        tensors = load_file(folder / ADAPTER_FILE)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise TrainingError(f"{folder} holds no usable adapter: {error!r}; train: lora writes one") from error
    choose_trained(policy, "lora", options)
    mine = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    if set(mine) != set(tensors) or any(mine[name].shape != tensors[name].shape for name in tensors):
        differing = sorted(set(mine) ^ set(tensors))[:5]
        raise TrainingError(f"{folder / ADAPTER_FILE} is for another architecture; it differs in {differing}")
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(tensors[name])
    return options
