"""A part of the camera's picture in place of all of it: pixels, cameras, datasets and what is trained on them agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.camera import PinholeCamera
from calibration.storage import save_camera
from prophrl_models.data.bag import Bag
from prophrl_models.data.convert import convert_bag
from prophrl_models.data.dataset import Dataset, DatasetHeader, build_dataset
from prophrl_models.data.depth import DepthSpec
from prophrl_models.data.image import WHOLE, ImageRegion, policy_camera, policy_crop, policy_depth, policy_image
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.prophet.train_data import dataset_cameras, open_datasets
from prophrl_models.training.settings import TrainingError
from tests.helpers.reaches import camera as drawn_camera
from tests.helpers.recording import record

REGION = ImageRegion(0.2, 0.35, 0.6)


def test_a_region_is_a_share_of_the_centred_crop() -> None:
    assert policy_crop(424, 240, REGION) == (52 + 64, 84, 192, 144)
    assert policy_crop(848, 480, REGION) == (104 + 128, 168, 384, 288)
    assert policy_crop(424, 240, WHOLE) == policy_crop(424, 240)


@pytest.mark.parametrize("size", [(424, 240), (1280, 720)])
def test_the_camera_of_a_region_projects_to_where_its_pixels_are(size: tuple[int, int]) -> None:
    width, height = size
    camera = PinholeCamera(width / 2, width / 2, (width - 1) / 2, (height - 1) / 2, width, height)
    seen = policy_camera(camera, REGION)
    rng = np.random.default_rng(0)
    for x, y in rng.uniform([0.25, 0.4], [0.75, 0.9], (20, 2)):
        left, top, crop_width, crop_height = policy_crop(width, height)
        pixel = np.round([left + x * crop_width, top + y * crop_height])
        rgb = np.zeros((height, width, 3), np.uint8)
        column, row = pixel.astype(int)
        rgb[row - 3 : row + 4, column - 3 : column + 4] = 255
        bright = policy_image(rgb, REGION)[..., 0].astype(float)
        rows, columns = np.mgrid[:240, :320]
        found = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
        projected, _ = seen.project(camera.unproject([pixel], [1.0]))
        assert projected[0] == pytest.approx(found, abs=0.3)


def test_depth_shows_what_colour_shows() -> None:
    left, top, width, height = policy_crop(424, 240, REGION)
    depth = np.random.default_rng(0).integers(300, 3000, (240, 424)).astype(np.uint16)
    shown = policy_depth(depth, REGION)
    assert set(np.unique(shown)) <= set(np.unique(depth[top : top + height, left : left + width]))
    assert shown[0, 0] == depth[top, left] and shown[-1, -1] == depth[top + height - 1, left + width - 1]


@pytest.mark.parametrize("numbers", [(0.5, 0.0, 0.6), (0.0, 0.5, 0.6), (-0.1, 0.0, 0.5), (0.0, 0.0, 0.1), (0, 0, 2)])
def test_what_is_no_part_of_the_picture_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"LEFT TOP SIZE, shares of the 4:3 picture"):
        ImageRegion(*numbers)
    with pytest.raises(ValueError, match="LEFT TOP SIZE"):
        ImageRegion.from_json(["left"])  # type: ignore[list-item]


def test_a_region_is_stored_and_whole_pictures_are_stored_as_before() -> None:
    spec = SyncSpec(image_region=REGION)
    assert SyncSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert "image_region" not in SyncSpec().to_json() and SyncSpec.from_json(SyncSpec().to_json()) == SyncSpec()


def test_a_dataset_shows_the_region_it_was_built_with(tmp_path: Path) -> None:
    save_camera(tmp_path / "camera.yaml", drawn_camera(), serial="drawn")
    for k in range(2):
        bag = replace(record(1.5, seed=k, width=128, height=96, depth=True), episode_id=f"e{k}")
        bag.write(tmp_path / "bags", tmp_path / "camera.yaml")
    header = DatasetHeader(sync=SyncSpec(image_region=REGION), depth=DepthSpec())
    build_dataset([tmp_path / "bags"], tmp_path / "part", header=header, progress=False)
    build_dataset([tmp_path / "bags"], tmp_path / "whole", header=DatasetHeader(depth=DepthSpec()), progress=False)
    part, whole = Dataset(tmp_path / "part"), Dataset(tmp_path / "whole")
    assert part.image_region == REGION and whole.image_region == WHOLE
    assert (part[0].state_T7 == whole[0].state_T7).all() and not (part[0].color_THW3 == whole[0].color_THW3).all()
    for position, row in enumerate(part.table):
        bag_of_it = Bag(tmp_path / "bags" / row.task / row.episode_id)
        again = convert_bag(bag_of_it, header.sync, depth=DepthSpec())
        assert (part[position].color_THW3 == again.color_THW3).all()
        stored = part[position].depth_THW
        assert stored is not None and again.depth_THW is not None and (stored == again.depth_THW).all()
    (camera, _), (all_of_it, _) = dataset_cameras(part), dataset_cameras(whole)
    assert camera is not None and all_of_it is not None and camera.fx == pytest.approx(all_of_it.fx / 0.6, rel=0.01)
    with pytest.raises(TrainingError, match="different image_region"):
        open_datasets([part.folder, whole.folder])
