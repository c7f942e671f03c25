"""The ranking report: its finding, its plot and its facts agree with the outcomes that went in."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prophrl_models.prophet.rank_figure import Point, rank_plot
from prophrl_models.prophet.rank_report import (
    VIDEOS,
    ImaginedVideo,
    RankedPolicy,
    Ranking,
    write_rank_report,
)
from prophrl_models.trials.statistics import SuccessRate


def policy(name: str, imagined: int, true: int, unjudged: int = 0) -> RankedPolicy:
    verdicts = tuple([True] * imagined + [False] * (10 - imagined) + [None] * unjudged)
    return RankedPolicy(name, name * 32, verdicts, tuple([True] * true + [False] * (20 - true)))


RANKING = Ranking(
    "place_cube",
    "small, weights abc",
    (policy("a", 1, 3), policy("b", 4, 9, unjudged=2), policy("c", 6, 14), policy("d", 9, 12)),
    {"seconds": 12.0},
    ("4 starts <only>",),
)


def test_the_finding_is_spearmans_coefficient_of_the_rates_with_its_exact_p() -> None:
    # Ranks 1 2 3 4 against 1 2 4 3: rho = 1 - 6 * 2 / (4 * 15); orders at least as good: the right one and 3 swaps.
    assert RANKING.correlation.rho == pytest.approx(0.8)
    assert RANKING.correlation.p_same_order == pytest.approx(4 / 24)
    assert RANKING.headline == "Spearman 0.80 over 4 policies, p = 0.17"
    assert RANKING.bias == pytest.approx((0.1 + 0.4 + 0.6 + 0.9) / 4 - (3 + 9 + 14 + 12) / 80)
    assert RANKING.policies[1].imagined_rate == SuccessRate(4, 10)  # what was not judged counts as nothing


def test_the_plot_shows_each_policy_where_its_rates_are() -> None:
    points = [Point(p.name, p.true_rate, p.imagined_rate) for p in RANKING.policies]
    svg = ElementTree.fromstring(rank_plot(points))
    circles = [e for e in svg.iter() if e.get("class") == "policy"]
    places = sorted((float(c.get("cx", "nan")), float(c.get("cy", "nan"))) for c in circles)
    size, left, top = 440.0, 56.0, 12.0
    expected = sorted((left + size * p.true.rate, top + size * (1 - p.imagined.rate)) for p in points)
    for found, wanted in zip(places, expected, strict=True):
        assert found == pytest.approx(wanted, abs=0.06)
    reaches = [e for e in svg.iter() if e.get("class") == "reach"]
    assert len(reaches) == 2 * len(points)
    across = next(e for e in reaches if e.get("y1") == e.get("y2"))
    interval = points[0].true.interval
    assert float(across.get("x1", "nan")) == pytest.approx(left + size * interval.low, abs=0.06)
    assert float(across.get("x2", "nan")) == pytest.approx(left + size * interval.high, abs=0.06)


def test_page_and_facts_are_written_together(tmp_path: Path) -> None:
    (tmp_path / VIDEOS).mkdir()
    (tmp_path / VIDEOS / "a_001.mp4").write_bytes(b"film")
    shown = replace(RANKING.policies[0], videos=(ImaginedVideo("a_001.mp4", None, "server <down>"),))
    ranking = replace(RANKING, policies=(shown, *RANKING.policies[1:]))
    page = write_rank_report(ranking, tmp_path, provenance={"judge": "classifier x"}, created_at="today")
    html = page.read_text()
    assert "Spearman 0.80 over 4 policies" in html and "4 starts &lt;only&gt;" in html
    assert "videos/a_001.mp4" in html and "not judged: server &lt;down&gt;" in html and "classifier x" in html
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["spearman"]["rho"] == pytest.approx(0.8) and facts["spearman"]["exact"]
    assert facts["policies"][1]["imagined"]["outcomes"].count(None) == 2
    assert facts["policies"][3]["twin"]["successes"] == 12
    missing = replace(
        ranking, policies=(replace(shown, videos=(ImaginedVideo("b.mp4", True, ""),)), *ranking.policies[1:])
    )
    with pytest.raises(FileNotFoundError, match="a has no video"):
        write_rank_report(missing, tmp_path, provenance={}, created_at="today")


def test_all_ties_are_no_order(tmp_path: Path) -> None:
    same = replace(RANKING, policies=tuple(policy(name, 5, true) for name, true in (("a", 1), ("b", 5), ("c", 9))))
    assert math.isnan(same.correlation.rho) and same.headline.startswith("No order: all 3 policies")
    page = write_rank_report(same, tmp_path, provenance={}, created_at="today")
    assert not re.search(r"\bnan\b", page.read_text(), re.IGNORECASE)
    assert json.loads((tmp_path / "report.json").read_text())["spearman"]["rho"] is None


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 policies, got 2"):
        replace(RANKING, policies=RANKING.policies[:2])
    with pytest.raises(ValueError, match="z has no judged rollout"):
        replace(RANKING, policies=(*RANKING.policies, RankedPolicy("z", "z", (None, None), (True,))))
