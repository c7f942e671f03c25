"""A world model for giving away: a checkpoint whose weights take two bytes each.

Half precision (ten bits of mantissa; a trained network's weights are far from its limits) is a format of files here,
not of arithmetic: ``load_prophet`` gives float32 again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prophrl_models.data.normalise import FILE_NAME as NORMALISATION
from prophrl_models.data.normalise import Normalisation
from prophrl_models.prophet.checkpoint import load_prophet, read_sampling, save_prophet
from prophrl_models.training.checkpoint import CheckpointError

LARGEST = 1.0e4
"""Weights beyond this are a sign of failed training, and near the end of what half precision holds."""


def pack_prophet(folder: str | Path, out: str | Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write a packed copy of a checkpoint.

    Args:
        notes: entries to add to the provenance: how it was evaluated, what rebuilds it.

    Raises:
        CheckpointError: the checkpoint cannot be read, a weight is too large for half precision, or a note would
            replace an entry.
        FileExistsError: something stands at ``out``.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder")
    network, codec, config, provenance = load_prophet(folder)
    for module in (network, codec):
        for name, value in module.state_dict().items():
            if value.is_floating_point() and value.numel() and float(value.abs().max()) > LARGEST:
                raise CheckpointError(f"weight {name} reaches {float(value.abs().max()):.3g}, too large to be packed")
    taken = sorted(set(notes or {}) & set(provenance))
    if taken:
        raise CheckpointError(f"the provenance says {', '.join(taken)} itself; choose other names for the notes")
    own = {name: value for name, value in provenance.items() if name not in ("sha256", "codec_hash")}
    statistics = Normalisation.load(folder) if (folder / NORMALISATION).is_file() else None
    return save_prophet(
        out,
        network,
        codec.half(),
        config,
        {**own, "packed": "float16", **(notes or {})},
        normalisation=statistics,
        sampling=read_sampling(folder),
        state=_halved(network.state_dict()),
    )


def _halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.dtype is torch.float32 else value for name, value in state.items()}
