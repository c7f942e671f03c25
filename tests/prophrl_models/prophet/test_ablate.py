"""Ablations of the world model: arms that differ, findings that follow from the numbers, a sound page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prophrl_models.prophet.ablate import (
    ARMS,
    DEFAULT_ARMS,
    AblationError,
    arm_settings,
    check_seeds,
    chosen_arms,
    network_of,
)
from prophrl_models.prophet.ablate_report import write_ablation_report
from prophrl_models.prophet.ablate_result import PROTOCOLS, SHOWN, AblationResult, ArmResult, Run, read_run
from prophrl_models.prophet.evaluate import BASELINE
from prophrl_models.prophet.metrics import METRICS
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from tests.helpers.pages import Page

TINY = ProphetTrainConfig(size="tiny", held_out=0.2)
GOOD = {
    "psnr_db": 25.0, "ssim": 0.8, "tssim": 0.7,
    "epe_px": 0.4, "epe_moving_px": 1.1, "cosine": 0.5, "cosine_half_px": 0.6, "cosine_moving": 0.5,
}  # fmt: skip


def facts(shift: float, *, seed: int = 0, still_epe: float = 1.0, still_cosine: float | None = None) -> dict[str, Any]:
    """What an evaluation writes: every metric ``shift`` better than GOOD."""

    def scores(values: dict[str, float | None]) -> dict[str, Any]:
        return {name: {"mean": {"mean": value, "deviation": None, "count": 1}} for name, value in values.items()}

    def row(name: str, values: dict[str, float | None]) -> dict[str, Any]:
        curves = {metric: [[value] * 4] for metric, value in values.items()}
        return {"name": name, **{p: scores(values) for p in PROTOCOLS}, "horizon": curves}

    ours = {n: v + (shift if METRICS[n].higher_is_better else -shift) for n, v in GOOD.items()}
    still: dict[str, float | None] = {
        **GOOD, "epe_px": still_epe, "cosine": still_cosine, "cosine_half_px": still_cosine, "cosine_moving": 0.0,
    }  # fmt: skip
    return {
        "rows": [row(BASELINE, still), row("model", dict(ours))],
        "clips": {PROTOCOLS[0]: [["a", 0, 4]]},
        "settings": {"seed": seed, "chunks": 1},
        "dataset": {"folder": "reaches", "content_hash": "abc"},
        "held_out": ["a"],
        "actions": 4,
        "rate_hz": 10.0,
    }


def arm(name: str, shifts: Sequence[float], still_epe: float = 1.0) -> ArmResult:
    runs = tuple(Run(k, f"runs/{name}/seed_{k}", facts(shift, still_epe=still_epe)) for k, shift in enumerate(shifts))
    return ArmResult(ARMS[name], runs, 1_250_000)


def result(still_epe: float = 1.0, **arms: Sequence[float]) -> AblationResult:
    return AblationResult(tuple(arm(name, shifts, still_epe) for name, shifts in arms.items()), (0, 1))


def test_every_arm_is_another_network_and_leaves_out_what_its_name_says() -> None:
    anchored = replace(TINY, network={**TINY.network, "anchored": True})
    networks = {name: network_of(c) for name, c in arm_settings(anchored, list(ARMS.values())).items()}
    assert not networks["base"].anchored and not networks["no_anchor"].anchored and networks["no_history"].anchored
    assert len(set(networks.values())) == len(ARMS) == 8 and set(DEFAULT_ARMS) < set(ARMS)
    for name, (history, frames, numbers) in {
        "full": (True, True, True), "no_history": (False, True, True), "no_memory": (False, True, True),
        "no_frames": (True, False, True),
        "no_numbers": (True, True, False), "no_actions_at_all": (True, False, False), "base": (False, False, False),
    }.items():  # fmt: skip
        network = Prophet(networks[name])
        found = [getattr(network, part) is not None for part in ("memory", "action_frames", "scalar_actions")]
        assert found == [history, frames, numbers], name
    assert not Prophet(networks["base"]).new_parameters()
    assert [name for name, network in networks.items() if network.known_alone] == ["no_history"]


def test_arms_that_would_be_the_same_and_studies_that_cannot_be_measured_are_refused() -> None:
    both = chosen_arms(["full", "no_memory"])
    with pytest.raises(AblationError, match="full and no_memory are the same network"):
        arm_settings(replace(TINY, network={"memory": None}), both)
    with pytest.raises(AblationError, match="nothing is held out"):
        arm_settings(replace(TINY, held_out=0.0), both)
    for names in (["full"], ["full", "full"]):
        with pytest.raises(AblationError, match="at least two different arms"):
            chosen_arms(names)
    with pytest.raises(AblationError, match="no arm 'no_remembrance'; choose from full"):
        chosen_arms(["full", "no_remembrance"])
    with pytest.raises(AblationError, match="different numbers"):
        check_seeds([1, 1])


def test_a_difference_counts_only_beyond_the_spread_of_single_trainings() -> None:
    # Means 0.10 and 0.00 with deviations sqrt(2) * 0.01 each: the spread of a difference is 0.02.
    clear = result(full=(0.09, 0.11), base=(-0.01, 0.01)).comparisons
    assert {c.verdict for c in clear} == {"better"}
    assert clear[0].margin == pytest.approx(0.1) and clear[0].spread == pytest.approx(0.02)
    noisy = result(full=(0.0, 0.2), base=(-0.01, 0.01)).comparisons  # spread 0.142
    assert {c.verdict for c in noisy} == {"within"}
    behind = result(full=(-0.11, -0.09), base=(-0.01, 0.01)).comparisons
    assert {c.verdict for c in behind} == {"worse"}
    single = result(full=(0.1,), base=(0.0,)).comparisons
    assert {c.verdict for c in single} == {"unknown"}


def test_the_finding_follows_the_numbers() -> None:
    won = result(full=(0.09, 0.11), no_history=(0.0, 0.01), base=(-0.01, 0.01))
    assert won.headline == "full wins on EPE and cosine, over copying the last frame too, by more than the seed spread"
    assert won.sentences[0].startswith("full beats every other arm on EPE and cosine")
    lost = result(full=(0.09, 0.11), no_history=(0.29, 0.31), base=(-0.01, 0.01))
    assert lost.headline == "full does not win throughout: 14 of 24 comparisons on EPE and cosine"
    assert "10 better by more than the seed spread, 10 worse by more than it" in lost.sentences[0]
    assert lost.sentences[1].startswith("Against no_history: worse in EPE (single chunk) -0.2000 ± 0.0200")
    single = result(full=(0.1,), base=(0.0,))
    assert single.headline == "full is ahead in 14 of 14 comparisons; the seed spread is not known yet"
    assert "spread unknown" in single.sentences[1]
    # A still video has no flow to compare: EPE is all there is.
    assert "nothing to compare in cos (single chunk)" in won.sentences[-1]
    assert "better in EPE (single chunk) +0.7000" in won.sentences[-1]


def test_beating_every_arm_but_not_the_still_picture_is_no_win() -> None:
    found = result(still_epe=0.2, full=(0.09, 0.11), no_history=(0.0, 0.01), base=(-0.01, 0.01))
    assert {c.verdict for c in found.comparisons} == {"better"}
    assert found.headline == (
        "full does not win throughout: 22 of 24 comparisons on EPE and cosine; not ahead of copying the last frame in "
        "EPE (single chunk), EPE (closed loop)"
    )
    level = result(still_epe=0.29, full=(0.05, 0.15), base=(-0.9, -0.91))  # ahead, by less than the spread
    assert "does not win throughout" in level.headline


def test_trainings_that_were_measured_differently_are_not_compared() -> None:
    other = ArmResult(ARMS["base"], (Run(0, "x", facts(0.0, seed=1)),))
    with pytest.raises(AblationError, match="cannot be compared"):
        AblationResult((arm("full", (0.1,)), other), (0,))
    with pytest.raises(AblationError, match="no training of this ablation is finished"):
        AblationResult((), (0,))


def test_page_and_facts_hold_what_was_measured(tmp_path: Path) -> None:
    found = replace(
        result(full=(0.09, 0.11), base=(-0.01, 0.01)), missing=("base, seed 2",), failed={"x <y>": "out of memory"}
    )
    videos = tmp_path / "runs" / "full" / "seed_0" / "eval" / "videos"
    videos.mkdir(parents=True)
    (videos / "loop_003.mp4").write_bytes(b"film")
    page = write_ablation_report(found, tmp_path, provenance={"codec": "a <b>"}, created_at="today")
    html = page.read_text()
    Page(html)  # balanced
    assert found.headline in html and "Not finished yet: base, seed 2" in html and "x &lt;y&gt; failed" in html
    assert "a &lt;b&gt;" in html and "runs/full/seed_0/eval/videos/loop_003.mp4" in html
    assert "1.25" in html and not re.search(r"\bnan\b", html, re.IGNORECASE) and "http" not in html
    said = json.loads((tmp_path / "report.json").read_text())
    full = said["arms"][0]
    for protocol in PROTOCOLS:
        for metric in SHOWN:
            sign = 1 if METRICS[metric].higher_is_better else -1
            assert full[protocol][metric]["mean"] == pytest.approx(GOOD[metric] + sign * 0.1)
            assert full[protocol][metric]["deviation"] == pytest.approx(0.01 * math.sqrt(2))
    assert {c["verdict"] for c in said["comparisons"] if c["other"] == "base"} == {"better"}


def test_a_run_is_read_once_it_is_measured(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "full" / "seed_1"
    assert read_run(folder, tmp_path, 1) is None
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / "report.json").write_text(json.dumps(facts(0.1, still_cosine=0.2)))
    run = read_run(folder, tmp_path, 1)
    assert run is not None and run.folder == "runs/full/seed_1"
    assert run.score(PROTOCOLS[0], "epe_px") == pytest.approx(0.3)
    assert run.score(PROTOCOLS[0], "cosine", baseline=True) == 0.2
