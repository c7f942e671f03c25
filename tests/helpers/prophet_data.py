"""A drawn dataset with a camera, and an untrained codec: what tests of the world model's training start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from calibration.storage import save_camera
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.prophet.codec import Codec, build_codec, save_codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.trained_on import RECORD, TrainedOn
from tests.helpers.reaches import CONVENTION, camera, places, reach

NARROW = CodecConfig(encoder_widths=(8, 8, 16), decoder_widths=(8, 8, 16))
"""A small codec that is quick on one core."""


def write_reaches(folder: Path, count: int = 4, *, calibrated: bool = True, seed: int = 0, gap: bool = False) -> Path:
    """A finished dataset of reaches; ``gap``: one action in the middle of the first episode is not to be trusted."""
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number, place in enumerate(places(count, seed)):
        episode = reach(place, number, pause=4 * number)
        if gap and number == 0:
            episode.valid_T[10] = False
        writer.add(episode, f"reach-{seed}-{number}")
    writer.finish()
    if calibrated:
        for row in Dataset(folder).table:
            save_camera(folder / row.folder / "calibration.yaml", camera(), serial="drawn")
    return folder


def new_codec(seed: int = 0) -> Codec:
    """An untrained small codec whose latents are about normal."""
    torch.manual_seed(seed)
    codec = build_codec(NARROW)
    with torch.no_grad():
        frames = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (4, 1, 32, 48, 3), dtype=np.uint8))
        scale = codec.encode(frames).std()
        codec.encoder.layers[-1].weight.mul_(1.0 / scale)  # type: ignore[union-attr, operator]
    return codec.eval()


def codec_folder(folder: Path) -> Path:
    """That codec, saved."""
    return save_codec(folder, new_codec(), {"dataset_hashes": [], RECORD: TrainedOn().to_json()})
