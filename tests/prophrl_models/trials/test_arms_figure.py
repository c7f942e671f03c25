"""Arms side by side: every seed, mean and interval is drawn where its number is."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from prophrl_models.trials.arms_figure import ArmMark, arms_plot


def drawn(svg: str, kind: str) -> list[dict[str, str]]:
    return [dict(e.attrib) for e in ElementTree.fromstring(svg).iter() if e.get("class") == kind]


def test_marks_lie_on_one_scale() -> None:
    marks = [ArmMark("a <b>", [0.2, 0.4]), ArmMark("c", [1.0], low=0.6, high=1.2)]
    svg = arms_plot(marks, "Success")
    assert "a &lt;b&gt;" in svg
    a, b = (float(c["cx"]) for c in drawn(svg, "seed"))  # a single seed is its own mean and gets no ring
    mean_a, mean_c = (float(m["x1"]) for m in drawn(svg, "mean"))
    [reach] = drawn(svg, "reach")
    unit = (b - a) / 0.2
    assert mean_a == pytest.approx((a + b) / 2, abs=0.11)
    assert mean_c == pytest.approx(a + 0.8 * unit, abs=0.3)
    assert float(reach["x1"]) == pytest.approx(a + 0.4 * unit, abs=0.3)
    assert float(reach["x2"]) == pytest.approx(a + 1.0 * unit, abs=0.3)


def test_what_has_no_number_is_left_out_and_differences_keep_zero_on_the_scale() -> None:
    assert arms_plot([ArmMark("a", [math.nan])], "nothing") == ""
    svg = arms_plot([ArmMark("a", [3.0], 2.0, 4.0), ArmMark("b", [math.nan])], "points", "{:+.0f}", zero=True)
    [axis] = drawn(svg, "axis")
    assert len(drawn(svg, "mean")) == 1 and float(axis["x1"]) < float(drawn(svg, "reach")[0]["x1"])
    assert "nan" not in svg
