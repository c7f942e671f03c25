"""Raw gripper numbers become openings with the right end open; expected values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from prophrl_models.data.registry.errors import RegistryError
from prophrl_models.data.registry.gripper import GripperMap, GripperSteps
from prophrl_models.data.registry.specs import SPECS


@pytest.mark.parametrize(
    ("name", "raw", "opening"),
    [
        ("agibot", [[35.0], [80.0], [125.0], [200.0]], [1.0, 0.5, 0.0, 0.0]),
        ("droid", [[0.0], [0.25], [1.0]], [1.0, 0.75, 0.0]),
        ("bridge", [[0.0], [0.3], [1.1]], [0.0, 0.3, 1.0]),
        ("austin_sailor", [[0.0], [0.0385], [0.077]], [0.0, 0.5, 1.0]),
        ("bc_z", [[0.2], [0.6], [1.0]], [1.0, 0.5, 0.0]),
        ("furniture_bench", [[0.0], [0.02], [0.08]], [0.0, 0.25, 1.0]),
        ("rt_1", [[0.0], [0.9], [1.0]], [1.0, 0.1, 0.0]),
        ("libero", [[0.04, -0.04], [0.02, -0.02], [0.0, 0.0]], [1.0, 0.5, 0.0]),
    ],
)
def test_measured_openings_by_dataset(name: str, raw: list[list[float]], opening: list[float]) -> None:
    measured = SPECS[name].layouts[0].effectors[0].measured
    assert measured is not None
    assert np.allclose(measured[1].opening(raw), opening)


@pytest.mark.parametrize(
    ("name", "raw", "opening"),
    [
        ("libero", [-1.0, 0.0, 1.0], [1.0, 0.5, 0.0]),
        ("dlr_edan", [0.0, 1.0], [1.0, 0.0]),
        ("cmu_stretch", [0.0, 1.0], [0.0, 1.0]),
        ("stanford_hydra", [0.0, 1.0], [1.0, 0.0]),
        ("nyu_franka", [0.0, 1.0], [0.0, 1.0]),
        ("usc_jaco", [0.0, 1.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 1.0, 1.0]),
    ],
)
def test_commanded_openings_by_dataset(name: str, raw: list[float], opening: list[float]) -> None:
    commanded = SPECS[name].layouts[0].effectors[0].commanded
    assert commanded is not None
    assert np.allclose(commanded[1].opening(raw), opening)


def test_before_its_first_command_a_gripper_is_in_the_other_state() -> None:
    steps = GripperSteps(+1.0, "")
    assert steps.opening([0, 0, -1, 0]).tolist() == [0, 0, 1, 1], "told to open, so it was closed"
    assert steps.opening([0, 1, 0, -1]).tolist() == [1, 0, 0, 1]
    assert steps.opening([0, 0.05, 0]).tolist() == [1, 1, 1], "never told anything: open"


def test_every_mapping_says_where_it_is_from() -> None:
    for spec in SPECS.values():
        for layout in spec.layouts:
            for effector in layout.effectors:
                pairs = [pair for pair in (effector.measured, effector.commanded) if pair is not None]
                assert pairs, f"{spec.name} has no gripper in {layout.format.value}"
                assert all(len(pair[1].source) > 5 for pair in pairs)


def test_bad_values_and_mappings_are_refused() -> None:
    with pytest.raises(RegistryError, match="same raw value 2"):
        GripperMap(2.0, 2.0, "nowhere")
    with pytest.raises(RegistryError, match="takes 1 columns, got 12"):
        GripperMap(0.0, 1.0, "a hand").opening(np.zeros((3, 12)))
    with pytest.raises(RegistryError, match="frame 1 is not finite"):
        GripperMap(0.0, 1.0, "").opening([0.0, float("nan")])
