"""Published weights, network and autoencoder, as a checkpoint of our own."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import torch

from calibration.poses import ActionConvention
from prophrl_models.prophet.checkpoint import save_prophet
from prophrl_models.prophet.codec_wan import load_wan
from prophrl_models.prophet.config import MemoryConfig, preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.weights import Loaded, load_into, read_weights
from prophrl_models.training.checkpoint import CheckpointError, sha256


def convert_weights(
    weights: str | Path,
    vae: str | Path,
    out: str | Path,
    *,
    size: str = "2b",
    released: bool = False,
    ema: bool = False,
    fresh: Collection[str] = (),
    convention: ActionConvention = ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
    rate_hz: float = 10.0,
) -> Loaded:
    """Write a checkpoint folder from published weights; returns what was found in them.

    Args:
        weights: see ``weights.read_weights``.
        vae: see ``codec_wan.load_wan``.
        size: preset of the architecture.
        released: memory in the released layout, oldest frame finest and without gates.
        ema: take the averaged weights of a training checkpoint that holds both.
        fresh: streams to be trained anew although the file has them, see ``weights.match``.
        convention, rate_hz: of the data it is meant for; weights do not say.

    Raises:
        WeightsError, CheckpointError: files that are missing or of another architecture.
    """
    try:
        config = preset(size)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    network_config = config.network
    if released:
        network_config = dataclasses.replace(network_config, memory=MemoryConfig(order="oldest_fine"))
    codec = load_wan(vae)
    network = Prophet(network_config).to(torch.bfloat16)
    loaded = load_into(network, read_weights(weights), ema=ema, fresh=fresh)
    config = dataclasses.replace(
        config, network=network_config, codec=codec.config, convention=convention, control_rate_hz=rate_hz
    )
    weights = Path(weights)
    provenance = {
        "dataset_hashes": [],
        "calibration_ids": [],
        "converted": {
            "from": weights.name,
            "sha256": sha256(weights) if weights.is_file() else None,
            "fresh": list(loaded.fresh),
        },
    }
    save_prophet(out, network, codec, config, provenance)
    return loaded
