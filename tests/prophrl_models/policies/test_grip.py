"""What a policy says of the opening, and what the fingers are told."""

from __future__ import annotations

import numpy as np
import pytest

from prophrl_models.policies.grip import firm_grip


def chunk(*openings: float) -> np.ndarray:
    actions = np.full((len(openings), 7), -0.01, dtype=np.float32)
    actions[:, 6] = openings
    return actions


def test_noise_above_closed_is_closed_and_motion_is_left_alone() -> None:
    said = chunk(1.0, 0.31, 0.3, 0.29, 0.06, 0.0, -0.2, 1.3)
    before = said.copy()
    firm = firm_grip(said, 0.3)
    assert firm[:, 6] == pytest.approx([1.0, 0.31, 0.3, 0.0, 0.0, 0.0, 0.0, 1.0])
    assert np.array_equal(firm[:, :6], said[:, :6])
    assert np.array_equal(said, before)  # what was said is kept as it was


def test_a_bound_of_zero_takes_openings_as_they_come() -> None:
    assert firm_grip(chunk(0.06, 0.5, -0.1), 0.0)[:, 6] == pytest.approx([0.06, 0.5, 0.0])


def test_a_firm_chunk_stays_as_it_is() -> None:
    batch = np.random.default_rng(0).normal(0.5, 0.5, (3, 20, 7)).astype(np.float32)
    assert np.array_equal(firm_grip(firm_grip(batch)), firm_grip(batch))


@pytest.mark.parametrize("bound", [-0.1, 1.1, float("nan")])
def test_a_bound_that_is_no_opening_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="close_below is an opening"):
        firm_grip(chunk(0.5), bound)
