"""Drawn reaches that meet their square and ones that close beside it, as a dataset with a calibrated camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.storage import save_camera
from prophrl_models.data.bag import CALIBRATION_FILE
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.data.episode import Episode
from tests.helpers.reaches import CONVENTION, camera, places, reach


def aimed(number: int, seed: int, hits: bool) -> Episode:
    """A reach for the square, or 8 cm beside it: then the square was somewhere else all the time."""
    place = places(number + 1, seed)[number]
    episode = reach(place, number)
    metadata = replace(episode.metadata, episode_id=f"reach-{seed}-{number}")
    if hits:
        return replace(episode, metadata=metadata)
    angle = float(np.random.default_rng((seed, number)).uniform(-np.pi, np.pi))
    elsewhere = reach(place + 0.08 * np.array([np.cos(angle), np.sin(angle)]), number)
    return replace(
        episode, metadata=replace(metadata, outcome="failure"), color_THW3=elsewhere.color_THW3,
        final=replace(episode.final, image_HW3=elsewhere.final.image_HW3),
    )  # fmt: skip


def write_aimed(folder: Path, count: int, seed: int = 0, *, failures: bool = True, calibrated: bool = True) -> Dataset:
    """A finished dataset; every second reach misses, if there are ``failures``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    calibration = folder.parent / f"{folder.name}_{CALIBRATION_FILE}"
    save_camera(calibration, camera(), serial="drawn")
    text = calibration.read_text() if calibrated else None
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number in range(count):
        hits = not failures or number % 2 == 0
        writer.add(aimed(number, seed, hits), f"source-{seed}-{number}", calibration_yaml=text)
    writer.finish()
    return Dataset(folder)
