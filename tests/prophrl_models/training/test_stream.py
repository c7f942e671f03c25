"""Rows and batches: every row once an epoch, the same batch for the same number, whatever the threads do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibration.poses import from_euler, integrate_chunk
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.training.augment import AugmentOptions
from prophrl_models.training.frames import episode_rows
from prophrl_models.training.rows import DatasetRows
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.stream import BatchStream, ShuffledOrder, vary_row
from tests.helpers.reaches import CONVENTION, reach
from tests.helpers.small_runs import FRAMES, new_policy


@pytest.fixture(scope="module")
def rows(dataset_folder: Path) -> DatasetRows:
    return DatasetRows(Dataset(dataset_folder), FRAMES)


def stream(rows: DatasetRows, workers: int, **options: object) -> BatchStream:
    policy = new_policy(rows.dataset, rows)
    return BatchStream(rows, policy, 4, workers=workers, augment=AugmentOptions(), **options)  # type: ignore[arg-type]


def test_each_epoch_draws_every_row_once_in_another_order() -> None:
    order = ShuffledOrder(50, seed=3)
    epochs = [[order.draw(50 * epoch + i) for i in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = ShuffledOrder(50, seed=3)
    assert [again.draw(50 + i) for i in range(50)] == epochs[1]  # from the middle, without what came before
    assert [ShuffledOrder(50, seed=4).draw(i) for i in range(50)] != epochs[0]


def test_a_batch_depends_on_its_number_only(rows: DatasetRows) -> None:
    alone, threaded = stream(rows, 0), stream(rows, 3, stride=2)
    try:
        for number in (7, 9, 11, 4, 6):  # a resumed run jumps
            a, b = alone.batch(number), threaded.batch(number)
            for name in ("image", "state_B7", "text"):
                assert torch.equal(getattr(a.inputs, name), getattr(b.inputs, name)), (number, name)
            assert torch.equal(a.actions_BCD, b.actions_BCD) and a.weight_B.tolist() == [1.0] * 4
    finally:
        alone.close()
        threaded.close()
    assert not torch.equal(alone.batch(0).inputs.state_B7, alone.batch(1).inputs.state_B7)


def test_rows_are_those_of_the_frames(rows: DatasetRows) -> None:
    episode = rows.dataset[1]
    expected = episode_rows(episode, FRAMES)
    first = int((episode_rows(rows.dataset[0], FRAMES).weight_T > 0).sum())
    for k in (0, 5, len(expected.frame_T) - 1):
        row = rows.row(first + k)
        np.testing.assert_array_equal(row.actions_CHD, expected.chunk_TCD[k])
        np.testing.assert_array_equal(row.image_HW3, episode.color_THW3[expected.frame_T[k]])
        np.testing.assert_array_equal(row.state_7, expected.state_T7[k])
        assert row.name == f"episode 'reach-1', step {expected.frame_T[k]}"
    assert (row.actions_CHD[1:, :6] == 0).all()  # past the end the hand rests


def test_rows_near_events_are_drawn_more_often_when_asked(rows: DatasetRows) -> None:
    more = DatasetRows(rows.dataset, replace(FRAMES, event_weight=2.0))
    sampling = [episode_rows(e, replace(FRAMES, event_weight=2.0)).sampling_T.sum() for e in rows.dataset]
    assert len(more) == sum(sampling) > len(rows)


def test_displaced_hand_ends_where_the_demonstration_led(rows: DatasetRows) -> None:
    options = AugmentOptions(brightness=0, contrast=0, colour=0, pixel_noise=0, position_m=0.01, return_steps=4)
    row = rows.row(2)
    varied = vary_row(row, options, torch.Generator().manual_seed(1))
    assert np.abs(varied.state_7[:3] - row.state_7[:3]).max() > 1e-3
    assert np.array_equal(varied.image_HW3, row.image_HW3)
    ends = [integrate_chunk(from_euler(r.state_7[:6]), r.actions_CHD, CONVENTION)[-1] for r in (row, varied)]
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)


def test_pictures_are_made_coarser_where_asked(rows: DatasetRows) -> None:
    options = AugmentOptions(brightness=0, contrast=0, colour=0, pixel_noise=0, position_m=0, coarse_share=1.0)
    row = rows.row(0)
    varied = vary_row(row, options, torch.Generator().manual_seed(2)).image_HW3
    assert varied.shape == row.image_HW3.shape

    def detail(image: NDArray[np.uint8]) -> float:
        return float(np.abs(np.diff(image.astype(float), axis=1)).max())

    assert detail(varied) < 0.9 * detail(row.image_HW3)


def test_varied_pictures_stay_pictures(rows: DatasetRows) -> None:
    varied = vary_row(rows.row(0), AugmentOptions(brightness=0.8), torch.Generator().manual_seed(0))
    assert varied.image_HW3.dtype == np.uint8 and varied.image_HW3.shape == (240, 320, 3)
    assert not np.array_equal(varied.image_HW3, rows.row(0).image_HW3)


def test_demonstrations_without_instruction_are_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "dataset", DatasetHeader(convention=CONVENTION))
    for number in range(2):
        episode = reach((-0.6, 0.0), number)
        text = "" if number else "go"
        writer.add(
            replace(
                episode,
                metadata=replace(episode.metadata, instruction=text),
                final=replace(episode.final, instruction=text),
            ),
            f"e{number}",
        )
    writer.finish()
    with pytest.raises(TrainingError, match=r"1 of 2 episodes have no instruction \(the first: 'reach-1'\)"):
        DatasetRows(Dataset(tmp_path / "dataset"), FRAMES)


def test_dataset_without_a_usable_step_is_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "dataset", DatasetHeader(convention=CONVENTION))
    episode = reach((-0.6, 0.0))
    writer.add(replace(episode, valid_T=np.arange(len(episode)) == 0), "e0")
    writer.finish()
    with pytest.raises(TrainingError, match="near gaps"):
        DatasetRows(Dataset(tmp_path / "dataset"), FRAMES)
