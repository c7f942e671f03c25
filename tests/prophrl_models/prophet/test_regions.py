"""Datasets, world models and policies that are used together must show the same part of the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import ImageRegion
from prophrl_models.prophet.regions import check_regions
from prophrl_models.training.settings import TrainingError
from tests.helpers import small_reinforcement


def test_parts_that_show_other_parts_of_the_picture_are_refused(tmp_path: Path) -> None:
    sources = small_reinforcement.write_sources(tmp_path)
    dataset = Dataset(sources.datasets[0])
    check_regions(sources.policy, sources.world, [dataset])
    cropped = replace(dataset.header, sync=replace(dataset.sync, image_region=ImageRegion(0.2, 0.3, 0.5)))
    dataset.header = cropped
    with pytest.raises(TrainingError, match=r"the region 0.2 0.3 0.5.*the whole picture.*build the datasets with one"):
        check_regions(sources.policy, sources.world, [dataset])
