"""A world model that has learned nothing, as a checkpoint folder: it goes everywhere a trained one goes."""

from __future__ import annotations

from pathlib import Path

import torch

from prophrl_models.prophet.checkpoint import save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet


def write_untrained_world(folder: Path) -> Path:
    """A tiny Prophet with the same weights every time."""
    torch.manual_seed(0)
    config = preset("tiny")
    made_of = {"dataset_hashes": [], "calibration_ids": []}
    return save_prophet(folder, Prophet(config.network), build_codec(config.codec), config, made_of)
