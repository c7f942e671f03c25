"""Each project's file, read and applied, gives what that project's formula gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prophrl_models.data.foreign_statistics import (
    ForeignStatisticsError,
    GripperPolarity,
    read_lerobot,
    read_openpi,
    read_openvla,
)

RANDOM = np.random.default_rng(0)
TIGHT = 1e-7
OPEN = GripperPolarity.OPEN_IS_ONE
LOW, HIGH = -np.abs(RANDOM.normal(size=(2, 8))) - 0.01, np.abs(RANDOM.normal(size=(2, 8))) + 0.01


def numbers(width: int, which: int) -> dict[str, Any]:
    """Statistics of one feature, as all three projects write them; the third channel never moves."""
    low, high = LOW[which, :width].copy(), HIGH[which, :width].copy()
    low[2] = high[2] = 0.25
    mean, std = (low + high) / 2, (high - low) / 4
    columns = {"mean": mean, "std": std, "min": low * 1.5, "max": high * 1.5, "q01": low, "q99": high}
    columns["min"][2] = columns["max"][2] = 0.25
    return {name: column.tolist() for name, column in columns.items()}


ACTION, STATE = numbers(7, 0), numbers(8, 1)
A = {name: np.array(column) for name, column in ACTION.items()}
S = {name: np.array(column) for name, column in STATE.items()}
VARIES = np.array([True, True, False, True, True, True, True])
RAW = RANDOM.normal(size=(5, 4, 7)) * 2.0
NET = RANDOM.normal(size=(5, 4, 7))


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def openpi(folder: Path) -> Path:
    chosen = ("mean", "std", "q01", "q99")
    body = {"state": {k: STATE[k] for k in chosen}, "actions": {k: ACTION[k] for k in chosen}}
    return write(folder / "norm_stats.json", {"norm_stats": body})


def lerobot(folder: Path) -> Path:
    image = {name: [[[0.5]], [[0.5]], [[0.5]]] for name in ("mean", "std", "min", "max")}
    features = {"action": {**ACTION, "count": [512]}, "observation.state": {**STATE, "count": [512]}}
    write(folder / "meta" / "stats.json", {**features, "observation.images.top": {**image, "count": [100]}})
    return folder


def openvla(folder: Path, name: str = "dataset_statistics.json") -> Path:
    body = {"action": {**ACTION, "mask": [True] * 6 + [False]}, "proprio": STATE, "num_transitions": 9}
    stats = {"libero_goal_no_noops": {**body, "num_trajectories": 2}}
    return write(folder / name, stats if name != "config.json" else {"model_type": "openvla", "norm_stats": stats})


def test_openpi_quantiles(tmp_path: Path) -> None:
    read = read_openpi(openpi(tmp_path), OPEN, quantiles=True).action
    expected = (RAW - A["q01"]) / (A["q99"] - A["q01"] + 1e-6) * 2.0 - 1.0
    np.testing.assert_allclose(read.normalise(RAW), expected, rtol=TIGHT, atol=TIGHT)
    expected = (NET + 1.0) / 2.0 * (A["q99"] - A["q01"] + 1e-6) + A["q01"]
    np.testing.assert_allclose(read.restore(NET), expected, rtol=TIGHT, atol=TIGHT)


def test_openpi_mean_and_deviation_and_the_state(tmp_path: Path) -> None:
    read = read_openpi(openpi(tmp_path).parent, OPEN, quantiles=False)
    np.testing.assert_allclose(read.action.normalise(RAW), (RAW - A["mean"]) / (A["std"] + 1e-6), rtol=TIGHT)
    np.testing.assert_allclose(read.action.restore(NET), NET * (A["std"] + 1e-6) + A["mean"], rtol=TIGHT)
    assert read.state is not None
    raw = RANDOM.normal(size=8)
    np.testing.assert_allclose(read.state.normalise(raw), (raw - S["mean"]) / (S["std"] + 1e-6), rtol=TIGHT)


def test_openpi_of_a_padded_model_is_cut_to_the_robot(tmp_path: Path) -> None:
    padded = {name: [*column, *[0.0] * 25] for name, column in ACTION.items() if name in ("mean", "std", "q01", "q99")}
    path = write(tmp_path / "norm_stats.json", {"norm_stats": {"actions": padded}})
    read = read_openpi(path, OPEN, quantiles=True, action_dim=7)
    assert read.state is None
    expected = (NET + 1.0) / 2.0 * (A["q99"] - A["q01"] + 1e-6) + A["q01"]
    np.testing.assert_allclose(read.action.restore(NET), expected, rtol=TIGHT, atol=TIGHT)
    with pytest.raises(ForeignStatisticsError, match="32 channels, 33 were asked for"):
        read_openpi(path, OPEN, quantiles=True, action_dim=33)


def test_lerobot_mean_and_deviation_has_its_epsilon_on_one_side_only(tmp_path: Path) -> None:
    read = read_lerobot(lerobot(tmp_path), OPEN, action_mode="mean_std", state_mode="identity")
    moving = RAW[..., VARIES], A["mean"][VARIES], A["std"][VARIES]
    np.testing.assert_allclose(
        read.action.normalise(RAW)[..., VARIES], (moving[0] - moving[1]) / (moving[2] + 1e-8), rtol=TIGHT
    )
    np.testing.assert_allclose(read.action.restore(NET), NET * A["std"] + A["mean"], rtol=TIGHT)
    assert read.state is not None
    assert np.array_equal(read.state.normalise(np.arange(8.0)), np.arange(8.0))


@pytest.mark.parametrize(("mode", "low", "high"), [("min_max", "min", "max"), ("quantiles", "q01", "q99")])
def test_lerobot_ranges(tmp_path: Path, mode: str, low: str, high: str) -> None:
    read = read_lerobot(lerobot(tmp_path), OPEN, action_mode=mode, state_mode=mode)
    span = A[high] - A[low]
    span[span == 0] = 1e-8
    np.testing.assert_allclose(read.action.normalise(RAW), 2 * (RAW - A[low]) / span - 1, rtol=TIGHT, atol=TIGHT)
    np.testing.assert_allclose(read.action.restore(NET), (NET + 1) / 2 * span + A[low], rtol=TIGHT, atol=TIGHT)


@pytest.mark.parametrize("name", ["dataset_statistics.json", "config.json"])
def test_openvla_restores_all_but_the_gripper(tmp_path: Path, name: str) -> None:
    read = read_openvla(openvla(tmp_path, name), OPEN).action
    expected = 0.5 * (NET + 1) * (A["q99"] - A["q01"] + 1e-8) + A["q01"]
    expected[..., 6] = NET[..., 6]
    np.testing.assert_allclose(read.restore(NET), expected, rtol=TIGHT, atol=TIGHT)


def test_openvla_clips_what_it_trains_on_and_zeroes_what_never_moves(tmp_path: Path) -> None:
    read = read_openvla(openvla(tmp_path).parent, OPEN, dataset="libero_goal_no_noops").action
    expected = np.clip(2 * (RAW - A["q01"]) / (A["q99"] - A["q01"] + 1e-8) - 1, -1, 1)
    expected[..., 6] = RAW[..., 6]
    expected[..., 2] = 0.0
    np.testing.assert_allclose(read.normalise(RAW), expected, rtol=TIGHT, atol=TIGHT)
    assert (np.abs(expected[..., :6]) == 1.0).any()


def test_openvla_other_modes(tmp_path: Path) -> None:
    path = openvla(tmp_path)
    bounds = read_openvla(path, OPEN, mode="bounds").action
    expected = 0.5 * (NET + 1) * (A["max"] - A["min"] + 1e-8) + A["min"]
    expected[..., 6] = NET[..., 6]
    np.testing.assert_allclose(bounds.restore(NET), expected, rtol=TIGHT, atol=TIGHT)
    normal = read_openvla(path, OPEN, mode="normal")
    expected = (RAW - A["mean"]) / (A["std"] + 1e-8)
    expected[..., 6] = RAW[..., 6]
    np.testing.assert_allclose(normal.action.normalise(RAW), expected, rtol=TIGHT, atol=TIGHT)
    assert normal.state is not None
    np.testing.assert_allclose(normal.state.restore(np.ones(8)), S["std"] + 1e-8 + S["mean"], rtol=TIGHT)


@pytest.mark.parametrize(
    ("polarity", "closed", "opened"),
    [
        (GripperPolarity.OPEN_IS_ONE, 0.0, 1.0),
        (GripperPolarity.CLOSED_IS_ONE, 1.0, 0.0),
        (GripperPolarity.OPEN_IS_PLUS_ONE, -1.0, 1.0),
        (GripperPolarity.CLOSED_IS_PLUS_ONE, 1.0, -1.0),
    ],
)
def test_openings_go_both_ways(tmp_path: Path, polarity: GripperPolarity, closed: float, opened: float) -> None:
    read = read_openpi(openpi(tmp_path), polarity, quantiles=True).action
    raw = np.tile(RAW[0, 0], (2, 1))
    raw[:, 6] = closed, opened
    ours = read.to_opening(raw)
    assert ours[:, 6].tolist() == [0.0, 1.0]
    assert np.array_equal(ours[:, :6], raw[:, :6])
    np.testing.assert_allclose(read.from_opening(ours), raw, atol=1e-15)
    offset, scale = (np.array(column) for column in read.opening_scaling())
    np.testing.assert_allclose(NET * scale + offset, read.to_opening(read.restore(NET)), rtol=1e-12, atol=1e-12)


def test_liberos_simulator_gets_what_openvlas_own_postprocessing_gives_it(tmp_path: Path) -> None:
    """OpenVLA maps its 0 closed .. 1 open to -1 .. 1 and flips the sign, for LIBERO closes at +1."""
    network_gripper = np.array([0.0, 0.3, 1.0])
    theirs = -(2.0 * network_gripper - 1.0)
    opening = GripperPolarity.OPEN_IS_ONE.to_opening(network_gripper)
    np.testing.assert_allclose(GripperPolarity.CLOSED_IS_PLUS_ONE.from_opening(opening), theirs, atol=1e-15)


def test_without_a_polarity_nothing_is_read(tmp_path: Path) -> None:
    for read in (
        lambda: read_openpi(openpi(tmp_path), None, quantiles=True),
        lambda: read_lerobot(lerobot(tmp_path), None, action_mode="mean_std", state_mode="mean_std"),
        lambda: read_openvla(openvla(tmp_path), None),
        lambda: read_openvla(openvla(tmp_path), "open"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ForeignStatisticsError, match="which end of the gripper is open"):
            read()
    state = read_openpi(openpi(tmp_path), OPEN, quantiles=True).state
    assert state is not None
    with pytest.raises(ForeignStatisticsError, match="only actions have one"):
        state.to_opening(np.zeros(8))


def test_damaged_files_are_refused_with_the_place(tmp_path: Path) -> None:
    def refused(body: Any, words: str) -> None:
        path = write(tmp_path / "x.json", body)
        with pytest.raises(ForeignStatisticsError, match=words):
            read_openpi(path, OPEN, quantiles=True)

    def actions(**changes: Any) -> dict[str, Any]:
        return {"norm_stats": {"actions": {**ACTION, **changes}}}

    refused([], "must be a JSON object")
    refused({"stats": 1}, "norm_stats in .* must be a JSON object, got NoneType")
    refused({"norm_stats": {"state": ACTION}}, "norm_stats.actions")
    refused(actions(q01=None), "lacks q01 or q99")
    refused(actions(q01=[0.0] * 6), "lists of one length")
    refused(actions(q01=["a"] * 7), "not a list of numbers")
    refused(actions(q99=[float("nan")] * 7), "not finite in q99")
    refused(actions(q01=ACTION["q99"], q99=ACTION["q01"]), "q01 above q99")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ForeignStatisticsError, match="not JSON"):
        read_openpi(tmp_path / "x.json", OPEN, quantiles=True)
    with pytest.raises(ForeignStatisticsError, match=r"holds no norm_stats.json"):
        read_openpi(tmp_path / "absent", OPEN, quantiles=True)


def test_choices_are_named_when_they_are_missed(tmp_path: Path) -> None:
    with pytest.raises(ForeignStatisticsError, match="no dataset 'bridge_orig'; choose one of libero_goal_no_noops"):
        read_openvla(openvla(tmp_path), OPEN, dataset="bridge_orig")
    two = {"a": {"action": ACTION}, "b": {"action": ACTION}}
    with pytest.raises(ForeignStatisticsError, match="choose one of a, b"):
        read_openvla(write(tmp_path / "two.json", two), OPEN)
    with pytest.raises(ForeignStatisticsError, match="choose one of bounds_q99"):
        read_openvla(openvla(tmp_path), OPEN, mode="q99")
    with pytest.raises(ForeignStatisticsError, match="choose one of mean_std"):
        read_lerobot(lerobot(tmp_path), OPEN, action_mode="gaussian", state_mode="mean_std")
    bad = {"a": {"action": {**ACTION, "mask": [True] * 6}}}
    with pytest.raises(ForeignStatisticsError, match=r"mask of a\.action"):
        read_openvla(write(tmp_path / "bad.json", bad), OPEN)
    with pytest.raises(ForeignStatisticsError, match="7 channels, got an array"):
        read_openvla(openvla(tmp_path), OPEN).action.restore(np.zeros(6))
