"""Statistics collected in parts equal NumPy's over everything at once."""

from __future__ import annotations

import numpy as np
import pytest

from prophrl_models.data.lerobot.statistics import (
    QUANTILES,
    NumberStatistics,
    color_statistics,
    depth_statistics,
)


def test_numbers_added_in_parts_of_any_size() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(1000, 3)) * [1e-6, 1.0, 1e3] + [5.0, -2.0, 1e6]).astype(np.float32)
    collected = NumberStatistics()
    for part in np.split(rows, [1, 10, 700]):
        collected.add(part)
    found, exact = collected.result(), rows.astype(np.float64)
    assert np.allclose(found["mean"], exact.mean(0), rtol=1e-12)
    assert np.allclose(found["std"], exact.std(0), rtol=1e-9)
    assert found["min"] == rows.min(0).tolist() and found["max"] == rows.max(0).tolist()
    assert found["count"] == [1000]
    for name, fraction in QUANTILES.items():
        assert np.allclose(found[name], np.quantile(exact, fraction, axis=0), rtol=1e-12)


def test_stamps_keep_their_bounds_to_the_nanosecond() -> None:
    stamps = np.array([1_760_000_000_123_456_789, 1_760_000_000_123_456_790], dtype=np.int64)
    collected = NumberStatistics()
    collected.add(stamps)
    assert (collected.result()["min"], collected.result()["max"]) == ([int(stamps[0])], [int(stamps[1])])


def test_truth_values_become_fractions() -> None:
    collected = NumberStatistics()
    collected.add(np.array([True, False, True, True]))
    found = collected.result()
    assert (found["min"], found["max"], found["mean"]) == ([0.0], [1.0], [0.75])


def test_pictures_of_several_episodes_add_up() -> None:
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (9, 12, 16, 3)).astype(np.uint8)
    parts = [color_statistics(), color_statistics()]
    for k, picture in enumerate(pictures):
        parts[k > 3].add(picture)
    whole = color_statistics()
    for part in parts:
        whole.merge(part.histogram_CV, part.frames)
    found, seen = whole.result(), pictures[:, ::2, ::2].reshape(-1, 3).astype(np.float64)
    assert np.shape(found["mean"]) == (3, 1, 1) and found["count"] == [9]
    assert np.allclose(np.ravel(found["mean"]) * 255, seen.mean(0))
    assert np.allclose(np.ravel(found["std"]) * 255, seen.std(0))
    assert np.allclose(np.ravel(found["min"]) * 255, seen.min(0))
    for name, fraction in QUANTILES.items():
        assert np.allclose(np.ravel(found[name]) * 255, np.quantile(seen, fraction, axis=0, method="lower")), name


def test_depth_statistics_are_in_millimetres() -> None:
    collected = depth_statistics()
    collected.add(np.full((4, 4), 65535, np.uint16))
    collected.add(np.full((4, 4), 1, np.uint16))
    found = collected.result()
    assert (found["min"], found["max"], found["mean"]) == ([[[1.0]]], [[[65535.0]]], [[[32768.0]]])


def test_nothing_has_no_statistics() -> None:
    for empty in (NumberStatistics(), color_statistics()):
        with pytest.raises(ValueError, match="no statistics"):
            empty.result()
