"""From a checkpoint folder to a policy that is ready to act."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from prophrl_models.policies.interface import FlowPolicy, PolicySpec
from prophrl_models.training.checkpoint import CheckpointError, read_checkpoint


class Builder(Protocol):
    """Builds a policy of one kind, weights still random, from what its ``config`` and ``assets`` returned."""

    def __call__(
        self, spec: PolicySpec, architecture: Mapping[str, Any], assets: Mapping[str, bytes]
    ) -> FlowPolicy: ...


KINDS: dict[str, str] = {
    "tiny": "prophrl_models.policies.tiny",
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
    try:
        policy = builder(files.kind)(files.spec, files.architecture, files.assets)
        policy.load_state_dict(dict(files.tensors), strict=True)
    except CheckpointError as error:
        raise CheckpointError(f"{files.folder}: {error}") from error
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"{files.folder}: weights and config.json do not fit together: {error}") from error
    return policy.to(device).eval()
