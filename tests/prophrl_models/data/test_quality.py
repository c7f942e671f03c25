"""The quality report: cadence figures from stamps, counters that are reset, and the table people read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset, build_dataset
from prophrl_models.data.quality import CounterGrowth, format_quality, topic_timing
from tests.helpers.recording import record


def stamps_ns(*intervals_s: float) -> np.ndarray:
    return np.round(np.cumsum([0.0, *intervals_s]) * 1e9).astype(np.int64)


def test_an_even_stream_has_its_rate_and_no_gaps() -> None:
    timing = topic_timing(stamps_ns(*[0.04] * 50), 0)
    assert timing.rate_hz == pytest.approx(25.0)
    assert (timing.count, timing.missing, timing.gaps) == (51, 0, ())
    assert timing.largest_gap_s == pytest.approx(0.04)


def test_lost_samples_are_counted_and_gaps_are_located() -> None:
    timing = topic_timing(stamps_ns(*[0.1] * 10, 0.4, *[0.1] * 10, 0.2, *[0.1] * 10) + 5, 5)
    assert timing.missing == 3 + 1
    assert timing.gaps == ((pytest.approx(1.0), pytest.approx(0.4)),)
    assert timing.largest_gap_s == pytest.approx(0.4)


def test_jitter_is_not_loss() -> None:
    rng = np.random.default_rng(0)
    timing = topic_timing(stamps_ns(*rng.uniform(0.024, 0.042, 300)), 0)
    assert (timing.missing, timing.gaps) == (0, ())


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_stamps_have_no_rate(count: int) -> None:
    timing = topic_timing(np.arange(count), 0)
    assert (timing.count, timing.rate_hz, timing.largest_gap_s) == (count, 0.0, 0.0)


@pytest.mark.parametrize(("seen", "growth"), [([], 0), ([7], 0), ([7, 7, 9], 2), ([7, 9, 0, 3, 4], 6), ([5, 1], 1)])
def test_a_counter_that_is_reset_keeps_growing(seen: list[int], growth: int) -> None:
    counter = CounterGrowth()
    for value in seen:
        counter.see(value)
    assert (counter.growth, counter.seen) == (growth, bool(seen))


def test_the_table_shows_each_episode_in_aligned_columns(tmp_path: Path) -> None:
    record(1.0, width=64, height=48, episode_id="reach-a").write(tmp_path / "bags")
    blind = record(1.0, seed=1, width=64, height=48, episode_id="b")
    blind.without(lambda s: s.topic == "/servo/status").write(tmp_path / "bags")
    build_dataset([tmp_path / "bags"], tmp_path / "out", progress=False)
    table = format_quality(Dataset(tmp_path / "out").quality()).splitlines()
    assert len(table) == 3
    assert table[0].split()[0] == "episode" and "camera Hz" in table[0]
    cells = {line.split()[0]: line.split() for line in table[1:]}
    assert cells["reach-a"][1] == "success" and 29.0 < float(cells["reach-a"][4]) < 31.0
    assert cells["b"][-3:] == ["–", "–", "–"], "what was not recorded is unknown, not zero"
    assert len({len(line) for line in table}) == 1 or all(len(line) <= len(table[0]) for line in table)
