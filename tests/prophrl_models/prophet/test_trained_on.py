"""The record of the episodes a world model was trained on: exact, compact, and honest about what it lacks."""

from __future__ import annotations

import json

import pytest

from prophrl_models.data.split import derived_name, is_held_out
from prophrl_models.prophet.trained_on import CODEC_RECORD, DIGEST_BYTES, RECORD, OldTraining, TrainedOn
from prophrl_models.training.checkpoint import CheckpointError

NAMES = [f"20260101T{k:09d}-place_cube" for k in range(2000)]


def through_json(record: TrainedOn) -> TrainedOn:
    return TrainedOn.of_provenance(json.loads(json.dumps({RECORD: record.to_json()})), "it")


def test_every_name_is_known_again_and_no_other() -> None:
    record = through_json(TrainedOn.of(NAMES[:1000]))
    assert all(record.used(name, "any") == "yes" for name in NAMES[:1000])
    assert all(record.used(name, "any") == "no" for name in NAMES[1000:])
    assert len(json.dumps(record.to_json())) < 1000 * DIGEST_BYTES * 1.4 + 200, "small beside the weights"
    assert record.to_json() == TrainedOn.of(reversed(NAMES[:1000])).to_json(), "whatever the order"


def test_an_episode_counts_as_the_one_it_was_made_from() -> None:
    record = through_json(TrainedOn.of([NAMES[0], derived_name(NAMES[1], "stopped-0")]))
    assert record.used(NAMES[1], "any") == record.used(derived_name(NAMES[0], "stopped-2"), "any") == "yes"
    assert record.used(derived_name(NAMES[2], "stopped-0"), "any") == "no"


def test_two_trainings_know_what_both_have_seen() -> None:
    old = TrainedOn(old=(OldTraining("older"),))
    both = through_json(TrainedOn.of(NAMES[:3]).joined(old).joined(TrainedOn.of(NAMES[2:5])).joined(old))
    assert len(both.digests) == 5 and both.old == (OldTraining("older"),)
    assert both.used(NAMES[4], "") == "yes" and both.used(NAMES[5], "") == "unknown"


def test_an_old_checkpoint_is_judged_by_its_split() -> None:
    provenance = {"dataset_hashes": ["a", "b"], "held_out": {"fraction": 0.3, "seed": 2}, "parent": None}
    record = through_json(TrainedOn.of_provenance(provenance, "old"))
    for name in NAMES[:200]:
        out = is_held_out(name, 0.3, 2)
        assert record.used(name, "b") == ("no" if out else "yes")
        assert record.used(name, "c") == ("no" if out else "unknown")
    everything = TrainedOn.of_provenance({**provenance, "held_out": {"fraction": 0.0, "seed": 0}}, "old")
    assert everything.used(NAMES[0], "a") == "yes"
    silent = TrainedOn.of_provenance({"dataset_hashes": ["a"]}, "old")
    assert silent.used(NAMES[0], "a") == "unknown"


def test_published_weights_have_seen_nothing_of_ours() -> None:
    assert TrainedOn.of_provenance({"dataset_hashes": [], "converted": {"from": "x"}}, "2b").used("any", "") == "no"


@pytest.mark.parametrize("damage", [{"count": 2}, {"digests": "***"}, {"old": [{"colour": 1}]}, {"digests": None}])
def test_a_damaged_record_is_refused(damage: dict[str, object]) -> None:
    raw = {**TrainedOn.of(["a"]).to_json(), **damage}
    with pytest.raises(CheckpointError, match="trained_episodes in its provenance cannot be read"):
        TrainedOn.of_provenance({RECORD: raw}, "it")


def test_a_checkpoint_says_what_its_codec_was_trained_on_or_that_it_does_not() -> None:
    said = {RECORD: TrainedOn.of(NAMES[:2]).to_json(), CODEC_RECORD: TrainedOn.of(NAMES[1:3]).to_json()}
    assert TrainedOn.of_codec(said, "it") == TrainedOn.of(NAMES[1:3])
    assert TrainedOn.of_codec({RECORD: said[RECORD]}, "it").used(NAMES[0], "any") == "unknown"
    assert TrainedOn.of_codec({"converted": {"from": "x"}}, "2b").used("any", "") == "no"
    with pytest.raises(CheckpointError, match=CODEC_RECORD):
        TrainedOn.of_codec({CODEC_RECORD: {"count": 1}}, "it")
