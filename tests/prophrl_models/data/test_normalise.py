"""Normalisation statistics: right numbers in one pass, and no way to use the wrong ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES
from prophrl_models.data.normalise import (
    FeatureStatistics,
    Normalisation,
    NormalisationError,
    QuantileSketch,
    StatisticsAccumulator,
)


def statistics(rows: np.ndarray, names: tuple[str, ...] = ACTION_NAMES, pieces: int = 7) -> FeatureStatistics:
    accumulator = StatisticsAccumulator(names)
    for piece in np.array_split(rows, pieces):
        accumulator.add(piece)
    return accumulator.result()


@pytest.fixture
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal([5e3, 0, 0, 1, 2, 3, 0.5], [0.01, 1, 2, 3, 4, 5, 0.2], (5000, 7))
    rows[:, 6] = rows[:, 6].clip(0, 1)
    return rows


def test_streamed_statistics_equal_those_of_the_whole(rows: np.ndarray) -> None:
    found = statistics(rows)
    assert found.count == 5000
    assert np.allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    assert np.allclose(found.std, rows.std(axis=0), rtol=1e-9), "even where the mean is half a million times the spread"
    assert np.allclose(found.q01, np.quantile(rows, 0.01, axis=0), rtol=1e-12)
    assert np.allclose(found.q99, np.quantile(rows, 0.99, axis=0), rtol=1e-12)
    assert found.minimum == tuple(rows.min(axis=0)) and found.maximum == tuple(rows.max(axis=0))


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    pieces=st.integers(1, 5),
)
def test_a_sketch_below_its_capacity_gives_numpys_quantiles(
    values: list[float], fractions: list[float], pieces: int
) -> None:
    sketch = QuantileSketch(capacity=1024)
    for piece in np.array_split(values, pieces):
        sketch.add(piece)
    assert np.allclose(sketch.quantiles(fractions), np.quantile(values, fractions), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_a_sketch_in_bounded_memory_keeps_the_promised_rank(order: str) -> None:
    n, capacity = 200_000, 512
    values = np.random.default_rng(1).permutation(n) if order == "random" else np.arange(n)
    if order == "falling":
        values = values[::-1]
    sketch = QuantileSketch(capacity)
    for piece in np.array_split(values, 999):
        sketch.add(piece)
    kept = sum(len(part) for level in sketch._levels for part in level)
    assert kept < capacity * len(sketch._levels)
    fractions = [0.01, 0.25, 0.5, 0.99]
    error = np.abs(sketch.quantiles(fractions) / (n - 1) - fractions).max()
    assert error <= np.log2(n / capacity) / capacity


def test_an_empty_sketch_has_no_quantiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        QuantileSketch().quantiles([0.5])


def test_quantile_scaling_maps_the_bulk_to_plus_minus_one_and_leaves_the_gripper(rows: np.ndarray) -> None:
    found = statistics(rows)
    offset, scale = found.scaling("quantile")
    scaled = (rows - offset) / scale
    inside = np.abs(scaled[:, :6]) <= 1.0
    assert np.allclose(inside.mean(axis=0), 0.98, atol=0.001)
    assert (scaled[:, 6] == rows[:, 6]).all()


def test_gaussian_scaling_gives_mean_zero_and_unit_spread(rows: np.ndarray) -> None:
    offset, scale = statistics(rows).scaling("gaussian")
    scaled = (rows - offset) / scale
    assert np.allclose(scaled[:, :6].mean(axis=0), 0, atol=1e-6)
    assert np.allclose(scaled[:, :6].std(axis=0), 1, atol=1e-6)
    assert (offset[6], scale[6]) == (0.0, 1.0)


def test_a_constant_channel_is_not_blown_up() -> None:
    rows = np.zeros((100, 7))
    rows[:, 2] = 0.3 + np.random.default_rng(0).normal(0, 1e-7, 100)
    for mode in ("quantile", "gaussian"):
        offset, scale = statistics(rows).scaling(mode)  # type: ignore[arg-type]
        assert np.abs((rows - offset) / scale)[:, :6].max() < 1e-6


def test_an_unknown_mode_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(NormalisationError, match="choose 'quantile' or 'gaussian'"):
        statistics(rows).scaling("minmax")  # type: ignore[arg-type]


def test_values_that_are_not_finite_are_refused_by_name(rows: np.ndarray) -> None:
    rows[17, 3] = np.nan
    with pytest.raises(NormalisationError, match="dex_rad"):
        statistics(rows)


def test_no_rows_are_refused() -> None:
    with pytest.raises(NormalisationError, match="no rows"):
        statistics(np.zeros((0, 7)))


@pytest.fixture
def stored(rows: np.ndarray, tmp_path: Path) -> Normalisation:
    normalisation = Normalisation(statistics(rows, STATE_NAMES), statistics(rows), "ab" * 32)
    normalisation.save(tmp_path)
    return normalisation


def test_statistics_survive_storage_exactly(stored: Normalisation, tmp_path: Path) -> None:
    assert Normalisation.load(tmp_path) == stored
    assert Normalisation.load(tmp_path, "ab" * 32) == stored


def test_a_changed_number_is_noticed(stored: Normalisation, tmp_path: Path) -> None:
    path = tmp_path / "normalisation.json"
    raw = json.loads(path.read_text())
    raw["action"]["mean"][0] += 1e-9
    path.write_text(json.dumps(raw))
    with pytest.raises(NormalisationError, match="changed after they were written"):
        Normalisation.load(tmp_path)


@pytest.mark.parametrize("key", ["dataset_hash", "state", "action", "sha256"])
def test_a_missing_key_is_refused(stored: Normalisation, tmp_path: Path, key: str) -> None:
    path = tmp_path / "normalisation.json"
    raw = json.loads(path.read_text())
    del raw[key]
    path.write_text(json.dumps(raw))
    with pytest.raises(NormalisationError, match=key):
        Normalisation.load(tmp_path)


def test_statistics_are_bound_to_their_dataset(stored: Normalisation, tmp_path: Path) -> None:
    with pytest.raises(NormalisationError, match="not to cdcdcdcdcdcd"):
        Normalisation.load(tmp_path, "cd" * 32)
    replace(stored, dataset_hash="cd" * 32).save(tmp_path)
    assert Normalisation.load(tmp_path, "cd" * 32).action == stored.action


def test_a_folder_without_statistics_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(NormalisationError, match=r"no normalisation\.json"):
        Normalisation.load(tmp_path)
