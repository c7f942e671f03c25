"""``prophrl trials fast``: from checkpoint folders to tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from prophrl_nodes.cli import trials_fast

from tests.helpers.twin_policies import write_untrained


def parsed(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    trials_fast.register(parser)
    return parser.parse_args([str(word) for word in words])


def test_policies_are_compared_and_everything_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_untrained(tmp_path / "one" / "policy", "grasp_bottle", seed=0)
    two = write_untrained(tmp_path / "two" / "policy", "grasp_bottle", seed=1)
    out = tmp_path / "study.json"
    words = (one, f"rl={two}", f"rl={two}", "--task", "grasp_bottle", "--trials", "1", "--max-duration", "0.3")
    assert trials_fast.run(parsed(*words, "--workers", "1", "--out", out)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "one 0 of 1 0.00 0.00 .. 0.97 - 1 time limit" in said
    assert "rl (2) 0 0 0 1 +0 -79 .. +79 1" in said
    assert "rl, 2 seeds: rate 0.00 ± 0.00 (0.00 .. 0.00); points against one +0 ± 0 (+0 .. +0)" in said
    assert "one: 1 ended without: bottle is lifted at least 10 cm" in said
    kept = json.loads(out.read_text())
    assert [policy["name"] for policy in kept["policies"]] == ["one", "rl (1)", "rl (2)"]
    # rl is one checkpoint given twice: its trial is run for both names
    assert kept["policies"][1]["outcomes"] == kept["policies"][2]["outcomes"]
    lines = out.with_suffix(".jsonl").read_text().splitlines()
    assert trials_fast.run(parsed(*words, "--workers", "1", "--out", out, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["neither"] == 1
    assert out.with_suffix(".jsonl").read_text().splitlines() == lines


def test_names_come_from_the_run_and_only_given_ones_make_seeds() -> None:
    named = trials_fast.named_policies(["runs/a/policy", "rl=runs/b/policy", "rl=runs/c", "x/e/best", "y/e/best"])
    assert [name for name, _ in named] == ["a", "rl", "rl", "x/e/best", "y/e/best"]
    assert named[1][1] == Path("runs/b/policy")
    with pytest.raises(trials_fast.UsageError, match="'=runs/a' is no checkpoint"):
        trials_fast.named_policies(["=runs/a"])


def test_impossible_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(trials_fast.UsageError, match="--videos needs --out"):
        trials_fast.run(parsed(tmp_path, "--task", "place_cube", "--videos", "1"))
    with pytest.raises(trials_fast.UsageError, match=r"must name a \.json file"):
        trials_fast.run(parsed(tmp_path, "--task", "place_cube", "--out", tmp_path / "x.txt"))
