"""From a checkpoint folder to a policy that is ready to act."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from prophrl_models.policies.interface import FlowPolicy, PolicySpec
from prophrl_models.training.checkpoint import CheckpointError, CheckpointFiles, read_checkpoint


class Builder(Protocol):
    """Builds a policy of one kind, weights still random, from what its ``config`` and ``assets`` returned."""

    def __call__(
        self, spec: PolicySpec, architecture: Mapping[str, Any], assets: Mapping[str, bytes]
    ) -> FlowPolicy: ...


KINDS: dict[str, str] = {
    "tiny": "prophrl_models.policies.tiny",
    "vla_adapter": "prophrl_models.policies.vla_adapter",
    "openvla_oft": "prophrl_models.policies.openvla_oft",
    "pi05": "prophrl_models.policies.pi05",
}
"""Kinds of policies and the module whose ``build`` makes them; imported when needed, for transformers is slow."""


def builder(kind: str) -> Builder:
    """The builder of a kind of policy.

    Raises:
        CheckpointError: unknown kind.
    """
    if kind not in KINDS:
        raise CheckpointError(f"unknown kind of policy {kind!r}; known: {', '.join(KINDS)}")
    build: Builder = importlib.import_module(KINDS[kind]).build
    return build


def load_policy(folder: str | Path, device: str | torch.device = "cpu") -> FlowPolicy:
    """The policy of a checkpoint folder, in evaluation mode.

    Raises:
        CheckpointError: see ``read_checkpoint``; also an unknown kind of policy, or weights that do not fit it.
    """
    files = read_checkpoint(folder)
    return build_policy(files, files.architecture).to(device).eval()


def build_policy(files: CheckpointFiles, architecture: Mapping[str, Any]) -> FlowPolicy:
    """A checkpoint's policy in an architecture of the same shapes; weights are rounded to its precision.

    Raises:
        CheckpointError: unknown kind, or weights that do not fit.
    """
    try:
        build = builder(files.kind)
        with _WithoutDraws():
            policy = build(files.spec, architecture, files.assets)
        policy.load_state_dict(dict(files.tensors), strict=True)
    except CheckpointError as error:
        raise CheckpointError(f"{files.folder}: {error}") from error
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"{files.folder}: weights and config.json do not fit together: {error}") from error
    return policy


class _WithoutDraws(TorchFunctionMode):
    """Leaves weights that are about to be read as they come: drawing billions of random numbers takes a minute."""

    METHODS = (torch.Tensor.normal_, torch.Tensor.uniform_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.METHODS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
