"""From a checkpoint folder to a policy that is ready to act."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from prophrl_models.policies.interface import FlowPolicy, PolicySpec
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from prophrl_models.training.checkpoint import CheckpointError, read_checkpoint

Builder = Callable[[PolicySpec, Mapping[str, Any]], FlowPolicy]


def _tiny(spec: PolicySpec, architecture: Mapping[str, Any]) -> FlowPolicy:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in architecture.items()}
    return TinyPolicy(spec, TinyConfig(**values))


BUILDERS: dict[str, Builder] = {TinyPolicy.kind: _tiny}
"""Kinds of policies by the name their checkpoints carry; a new policy adds one line here."""


def load_policy(folder: str | Path, device: str | torch.device = "cpu") -> FlowPolicy:
    """The policy of a checkpoint folder, in evaluation mode.

    Raises:
        CheckpointError: see ``read_checkpoint``; also an unknown kind of policy, or weights that do not fit it.
    """
    files = read_checkpoint(folder)
    builder = BUILDERS.get(files.kind)
    if builder is None:
        raise CheckpointError(f"{files.folder}: unknown kind of policy {files.kind!r}; known: {', '.join(BUILDERS)}")
    try:
        policy = builder(files.spec, files.architecture)
        policy.load_state_dict(dict(files.tensors), strict=True)
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"{files.folder}: weights and config.json do not fit together: {error}") from error
    return policy.to(device).eval()
