"""What a round promised in imagination against what trials of its policy came to: the number that counts.

Both are proportions; the real one has its exact 95 % interval, the difference Newcombe's. The promise is flattered, as
it is the best of several evaluations, and less sure than it looks, as rollouts from one start resemble each other.
Trials on other placements than the held-out starts measure something slightly different.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIDENCE = 0.95


def compare(policy: Path, trials: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The comparison as plain values; empty without trials.

    Args:
        policy: checkpoint of the round before.
        trials: of each policy label, (successes, trials).

    Returns:
        ``promised`` and ``rollouts`` (of the evaluation that chose the checkpoint; None where there was none), and
        ``trials``: of each label successes, trials, rate, low, high and, with a promise, ``difference`` (real minus
        imagined) with ``difference_low`` and ``difference_high``.
    """
    from prophrl_models.trials.statistics import SuccessRate, difference_interval

    if not trials:
        return {}
    best = promise(json.loads((policy / "provenance.json").read_text(encoding="utf-8")))
    rollouts = None if best is None else round(best["rollouts"])
    found: dict[str, Any] = {"promised": best and best["success"], "rollouts": rollouts, "trials": {}}
    for label, (successes, count) in sorted(trials.items()):
        real = SuccessRate(successes, count, CONFIDENCE)
        row = {"successes": successes, "trials": count, "rate": real.rate}
        row |= {"low": real.interval.low, "high": real.interval.high}
        if best is not None and rollouts:
            between = difference_interval(
                round(best["success"] * rollouts), rollouts, successes, count, confidence=CONFIDENCE
            )
            row |= {"difference": real.rate - best["success"]}
            row |= {"difference_low": between.low, "difference_high": between.high}
        found["trials"][label] = row
    return found


def promise(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The evaluation of a checkpoint, by its provenance: that of its own step, not the best of all looks.

    A run that was stopped may deliver a step before its best look. None without evaluations.
    """
    evaluations: Sequence[Mapping[str, Any]] = record.get("evaluations", ())
    own = [entry for entry in evaluations if entry["step"] == record.get("step")]
    return own[0] if own else max(evaluations, key=lambda entry: float(entry["success"]), default=None)


def sentence(number: int, reality: Mapping[str, Any]) -> str:
    """The comparison in words; ``number`` is that of the round which promised."""
    if not reality:
        return f"no labelled trials among the new bags: what round {number} promised stays untested"
    promise = f"round {number} was not evaluated in imagination"
    if reality["promised"] is not None:
        promise = f"round {number} promised {reality['promised']:.0%} in imagination ({reality['rollouts']} rollouts)"
    rows = reality["trials"]
    if len(rows) > 1:
        said = ", ".join(f"{label} {row['successes']} of {row['trials']}" for label, row in rows.items())
        return f"{promise}; trials of several policies in the new bags ({said}): the plan's key says which is meant"
    (row,) = rows.values()
    real = (
        f"in the new bags {row['successes']} of {row['trials']} trials succeeded, {row['rate']:.0%} "
        f"(95 %: {row['low']:.0%} to {row['high']:.0%})"
    )
    if "difference" not in row:
        return f"{promise}; {real}"
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    if low <= 0.0 <= high:
        verdict = "no more than chance may do"
    else:
        verdict = "imagination was too kind" if high < 0.0 else "imagination was too strict"
    return f"{promise}; {real}: {100 * row['difference']:+.0f} points ({low:+.0f} to {high:+.0f}), {verdict}"
