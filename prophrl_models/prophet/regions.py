"""Which part of the picture datasets, world models and policies show: used together, they must show the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import WHOLE
from prophrl_models.prophet.checkpoint import read_config
from prophrl_models.training.checkpoint import read_checkpoint
from prophrl_models.training.settings import TrainingError


def check_regions(policy: Path | None, world: Path, datasets: Sequence[Dataset]) -> None:
    """Refuse parts of a run whose pictures show different parts of the camera's.

    Raises:
        CheckpointError: a checkpoint that cannot be read.
        TrainingError: names the parts and what they show.
    """
    shown = {str(dataset.folder): dataset.image_region for dataset in datasets}
    shown[str(world)] = read_config(world).image_region
    if policy is not None:
        sync = read_checkpoint(policy).sync
        shown[str(policy)] = sync.image_region if sync else WHOLE
    if len(set(shown.values())) > 1:
        said = "; ".join(f"{name} shows {region}" for name, region in shown.items())
        raise TrainingError(f"{said}: build the datasets with one --image-region, and train on these")
