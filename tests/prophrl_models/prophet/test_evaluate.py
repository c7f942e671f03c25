"""The evaluation protocol on a world whose answers are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from calibration.poses import ActionConvention
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.split import Split, SplitError, held_out, is_held_out
from prophrl_models.prophet.eval_data import Clip, ClipReader, EvaluationError, episode_starts, spread_windows
from prophrl_models.prophet.evaluate import BASELINE, CHUNK, LOOP, EvaluationSettings, Subject, evaluate
from prophrl_models.prophet.metrics import PSNR_LIMIT_DB
from prophrl_models.prophet.playback import StillWorld, play
from prophrl_models.prophet.scores import Paired, Scores, Spread
from prophrl_models.prophet.trained_on import CODEC_RECORD, RECORD, TrainedOn
from tests.helpers.drawn_world import CONVENTION, DrawnWorld, write_dataset

LENGTHS = (30, 21, 40, 9, 34, 18, 26, 40)
SETTINGS = EvaluationSettings(held_out=0.5, windows=6, chunks=3, batch=3, sensitivity=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("drawn"), LENGTHS)


def subject(world: DrawnWorld, row: str = "drawn", **provenance: object) -> Subject:
    provenance = {CODEC_RECORD: TrainedOn().to_json(), **provenance}
    return Subject(row, f"a world with gain {world.gain}", lambda: world, provenance)


# The split -----------------------------------------------------------------------------------------------------------


def test_split_depends_on_names_alone_and_nests() -> None:
    names = [f"episode-{k}" for k in range(2000)]
    tenth = {name for name in names if is_held_out(name, 0.1)}
    fifth = {name for name in names if is_held_out(name, 0.2)}
    assert tenth < fifth
    assert 0.08 < len(tenth) / len(names) < 0.12 and 0.17 < len(fifth) / len(names) < 0.23
    assert tenth != {name for name in names if is_held_out(name, 0.1, seed=1)}
    assert not any(is_held_out(name, 0.0) for name in names)


def test_split_covers_the_dataset_once(dataset: Dataset) -> None:
    split = held_out(dataset, 0.5)
    assert sorted(split.train + split.held_out) == list(range(len(LENGTHS)))
    assert held_out(dataset, 0.5) == split
    assert held_out(dataset, 0.0) == Split(tuple(range(len(LENGTHS))), ())


def test_split_that_leaves_one_side_empty_is_refused(dataset: Dataset) -> None:
    with pytest.raises(SplitError, match="none is left to hold out at fraction 1e-06"):
        held_out(dataset, 1e-6)
    with pytest.raises(SplitError, match="none is left to train"):
        held_out(dataset, 0.999999)
    with pytest.raises(SplitError, match="0 <= fraction < 1"):
        held_out(dataset, 1.0)


# Clips ---------------------------------------------------------------------------------------------------------------


def test_clips_end_in_holds_and_the_final_frame(dataset: Dataset) -> None:
    reader = ClipReader(dataset, 240, 320)
    clip, episode = Clip(3, 5, 4), dataset[3]  # nine steps: frame 9 is the final observation
    frames = reader.frames(clip, 0, 7)
    assert np.array_equal(frames[:4], np.asarray(episode.color_THW3[5:9]))
    assert all(np.array_equal(frame, episode.final.image_HW3) for frame in frames[4:])
    actions = reader.actions(clip, 2, 4)
    assert np.array_equal(actions[:2], episode.action_T7[7:9])
    assert not actions[2:, :6].any() and (actions[2:, 6] == episode.action_T7[-1, 6]).all()


def test_windows_are_valid_fairly_shared_and_repeatable(dataset: Dataset) -> None:
    positions = (0, 2, 3, 7)
    windows = spread_windows(dataset, positions, 8, 11, seed=4)
    assert windows == spread_windows(dataset, positions, 8, 11, seed=4)
    assert len(set(windows)) == 11
    shares = [sum(clip.position == position for clip in windows) for position in positions]
    assert shares[2] == 2  # all that nine steps have
    assert max(shares) - min(shares[:2] + shares[3:]) <= 1
    assert all(clip.start + clip.frames <= LENGTHS[clip.position] for clip in windows)
    with pytest.raises(EvaluationError, match="50 valid steps in a row"):
        spread_windows(dataset, positions, 50, 1)


# Playing -------------------------------------------------------------------------------------------------------------


def test_the_exact_world_shows_what_was_recorded_over_all_chunks(dataset: Dataset) -> None:
    world = DrawnWorld()
    reader = ClipReader(dataset, world.image_height, world.image_width)
    clips = episode_starts(dataset, range(len(LENGTHS)), 40, 8)
    seen: dict[int, int] = {}
    for played in play(world, reader, clips, chunks=5, batch=3):
        for row, clip in enumerate(played.rows):
            generated = played.generated(row)
            real = reader.frames(clips[clip], played.first - 1, world.actions + 1)
            assert np.abs(generated.astype(int) - real).max() <= 40 and (generated == real).mean() > 0.998
            seen[clip] = played.first + world.actions - 1
    assert seen[2] == seen[7] == 40
    assert seen[3] <= 40


def test_a_batch_ends_with_its_last_clip(dataset: Dataset) -> None:
    world = DrawnWorld()
    reader = ClipReader(dataset, world.image_height, world.image_width)
    clips = [Clip(3, 0, 9), Clip(5, 0, 18), Clip(2, 0, 40)]
    played = [(p.rows, p.first) for p in play(world, reader, clips, chunks=5, batch=2)]
    assert [first for rows, first in played if rows == (0, 1)] == [1, 9, 17]
    assert [first for rows, first in played if rows == (2,)] == [1, 9, 17, 25, 33]


def test_noise_of_a_clip_does_not_depend_on_its_batch(dataset: Dataset) -> None:
    world = DrawnWorld(grain=5.0)
    reader = ClipReader(dataset, world.image_height, world.image_width)
    clips = episode_starts(dataset, (0, 2, 4), 16, 3)

    def videos(batch: int, seed: int) -> dict[tuple[int, int], np.ndarray]:
        runs = play(world, reader, clips, chunks=2, batch=batch, seed=seed)
        return {(clip, p.first): p.frames_BFHW3[row] for p in runs for row, clip in enumerate(p.rows)}

    together, alone, other = videos(3, 0), videos(1, 0), videos(3, 1)
    assert all(np.array_equal(together[key], alone[key]) for key in together)
    assert not any(np.array_equal(together[key], other[key]) for key in together)


# The whole -----------------------------------------------------------------------------------------------------------


def test_better_worlds_score_better_and_the_baseline_stands_still(dataset: Dataset) -> None:
    exact, lazy = subject(DrawnWorld(), "exact"), subject(DrawnWorld(gain=0.5), "lazy")
    result = evaluate([exact, lazy], dataset, SETTINGS)
    assert [row.name for row in result.rows] == [BASELINE, "exact", "lazy"]
    still, best, worse = result.rows
    for protocol in (CHUNK, LOOP):
        assert best.spread(protocol, "psnr_db").mean > 50.0
        assert best.spread(protocol, "psnr_db", median=True).mean == pytest.approx(PSNR_LIMIT_DB)
        for metric in ("psnr_db", "ssim", "tssim", "cosine_moving"):
            assert best.spread(protocol, metric).mean > worse.spread(protocol, metric).mean
        assert best.spread(protocol, "epe_px").mean < worse.spread(protocol, "epe_px").mean
        assert best.spread(protocol, "cosine_half_px").mean > 0.97
        assert abs(still.spread(protocol, "cosine_moving").mean) < 0.2
        assert worse.spread(protocol, "cosine_moving").mean > 0.3
    error = worse.curves("psnr_db")[0]
    assert error.shape == (24,) and np.nanmean(error[:4]) > np.nanmean(error[-8:]) + 2.0  # a lazy hand falls behind


def test_frames_after_an_episodes_end_do_not_count(dataset: Dataset) -> None:
    result = evaluate([subject(DrawnWorld())], dataset, SETTINGS)
    table = result.rows[1].members[0].scores[LOOP].table("psnr_db")
    assert [int(np.isfinite(row).sum()) for row in table] == [min(24, LENGTHS[clip.position]) for clip in result.loops]
    assert {clip.position for clip in result.windows} <= set(result.split.held_out)


def test_spread_is_over_trained_seeds_and_noise_seeds(dataset: Dataset) -> None:
    grainy = [subject(DrawnWorld(grain=grain), "grainy") for grain in (4.0, 8.0)]
    settings = EvaluationSettings(held_out=0.5, windows=4, chunks=1, noise_seeds=2, sensitivity=False)
    row = evaluate(grainy, dataset, settings).rows[1]
    assert [(member.source[-3:], member.noise_seed) for member in row.members] == [("1.0", k) for k in (0, 1, 0, 1)]
    values = [member.scores[CHUNK].summary("psnr_db").mean for member in row.members]
    spread = row.spread(CHUNK, "psnr_db")
    assert spread == Spread(pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 4)
    assert values[0] == pytest.approx(20 * np.log10(255 / 4.0), abs=0.5)  # the noise's own PSNR
    assert values[0] != values[1]


def test_what_cannot_be_compared_is_refused(dataset: Dataset) -> None:
    with pytest.raises(EvaluationError, match="LOCAL_FRAME_DELTA, the dataset's are ABSOLUTE_POSE_DIFFERENCE"):
        evaluate([subject(DrawnWorld(convention=ActionConvention.LOCAL_FRAME_DELTA))], dataset, SETTINGS)
    with pytest.raises(EvaluationError, match="5 Hz, the dataset at 10 Hz"):
        evaluate([subject(DrawnWorld(control_rate_hz=5.0))], dataset, SETTINGS)
    with pytest.raises(EvaluationError, match="80x60 px, the first model 8 of 64x48"):
        evaluate([subject(DrawnWorld()), subject(DrawnWorld(60, 80), "large")], dataset, SETTINGS)
    with pytest.raises(EvaluationError, match="no world model"):
        evaluate([], dataset, SETTINGS)
    with pytest.raises(EvaluationError, match="name of the baseline"):
        evaluate([subject(DrawnWorld(), BASELINE)], dataset, SETTINGS)
    with pytest.raises(EvaluationError, match="windows must be at least 1, got 0"):
        EvaluationSettings(windows=0)
    with pytest.raises(EvaluationError, match="at least one pass, got 0"):
        EvaluationSettings(passes=0)


def test_a_model_that_was_trained_on_the_held_out_episodes_is_refused(dataset: Dataset) -> None:
    hashes = [dataset.content_hash]
    seen = subject(DrawnWorld(), dataset_hashes=hashes, held_out={"fraction": 0.1, "seed": 0})
    with pytest.raises(EvaluationError, match=r"use --held-out 0\.1 --split-seed 0"):
        evaluate([seen], dataset, SETTINGS)
    clean = subject(DrawnWorld(), dataset_hashes=hashes, held_out={"fraction": 0.6, "seed": 0})
    settings = EvaluationSettings(held_out=0.5, windows=1, chunks=1, episodes=1, sensitivity=False)
    assert evaluate([clean], dataset, settings).notes == ()
    silent = subject(DrawnWorld(), dataset_hashes=hashes)
    assert "does not say which episodes" in evaluate([silent], dataset, settings).notes[0]


def test_an_episode_is_known_again_in_a_dataset_of_another_hash(dataset: Dataset, tmp_path: Path) -> None:
    """Trained on everything; evaluated on the same recordings in a dataset that was built anew with one more."""
    ids = [row.episode_id for row in dataset.table]
    other = write_dataset(tmp_path / "other", (*LENGTHS, 25))
    assert other.content_hash != dataset.content_hash and set(ids) < {row.episode_id for row in other.table}
    record = {"dataset_hashes": [dataset.content_hash], RECORD: TrainedOn.of(ids).to_json()}
    settings = EvaluationSettings(held_out=0.5, windows=1, chunks=1, episodes=1, sensitivity=False)
    count = sum(other.table[p].episode_id in ids for p in held_out(other, 0.5).held_out)
    with pytest.raises(EvaluationError, match=f"was trained on {count} of the"):
        evaluate([subject(DrawnWorld(), **record)], other, settings)
    kept = [dataset.table[p].episode_id for p in held_out(dataset, 0.5).train]
    clean = {**record, RECORD: TrainedOn.of(kept).to_json(), "held_out": {"fraction": 0.5, "seed": 0}}
    assert evaluate([subject(DrawnWorld(), **clean)], other, settings).notes == ()
    with pytest.raises(EvaluationError, match=r"use --held-out 0\.5 --split-seed 0, as in its training"):
        evaluate([subject(DrawnWorld(), **clean)], other, dataclasses.replace(settings, split_seed=1))


def test_a_model_whose_codec_was_trained_on_the_held_out_episodes_is_refused(dataset: Dataset) -> None:
    settings = EvaluationSettings(held_out=0.5, windows=1, chunks=1, episodes=1, sensitivity=False)
    split = held_out(dataset, 0.5)
    kept, left_out = ([dataset.table[p].episode_id for p in side] for side in (split.train, split.held_out))
    record = {RECORD: TrainedOn.of(kept).to_json(), "held_out": {"fraction": 0.5, "seed": 0}}
    leaking = {**record, CODEC_RECORD: TrainedOn.of([*kept, left_out[0]]).to_json()}
    with pytest.raises(EvaluationError, match=f"the codec of a world .* was trained on 1 of the .*{left_out[0]}"):
        evaluate([subject(DrawnWorld(), **leaking)], dataset, settings)
    clean = {**record, CODEC_RECORD: TrainedOn.of(kept).to_json()}
    assert evaluate([subject(DrawnWorld(), **clean)], dataset, settings).notes == ()
    silent = Subject("drawn", "an older world", DrawnWorld, record)
    (note,) = evaluate([silent], dataset, settings).notes
    assert note.startswith("the codec of an older world does not say which episodes it was trained on")


def test_old_checkpoints_are_evaluated_with_a_note(dataset: Dataset) -> None:
    settings = EvaluationSettings(held_out=0.5, windows=1, chunks=1, episodes=1, sensitivity=False)
    elsewhere = {"dataset_hashes": ["another"]}
    same_split = subject(DrawnWorld(), **elsewhere, held_out={"fraction": 0.5, "seed": 0})
    assert evaluate([same_split], dataset, settings).notes == (), "what was held out there is held out everywhere"
    other_split = subject(DrawnWorld(), **elsewhere, held_out={"fraction": 0.5, "seed": 7})
    (note,) = evaluate([other_split], dataset, settings).notes
    assert "does not say which episodes" in note and "may be among them" in note
    parent = {"checkpoint": "older", "sha256": "0" * 64}
    child = subject(DrawnWorld(), **elsewhere, held_out={"fraction": 0.5, "seed": 0}, parent=parent)
    assert "older, the parent of" in evaluate([child], dataset, settings).notes[0]


def test_the_still_world_is_a_world() -> None:
    still = StillWorld.like(DrawnWorld())
    assert (still.image_height, still.image_width, still.actions, still.convention) == (48, 64, 8, CONVENTION)


# Numbers -------------------------------------------------------------------------------------------------------------


def test_scores_count_only_what_is_valid() -> None:
    scores = Scores(2, 4)
    scores.put(0, 0, {"psnr_db": np.array([1.0, 3.0])}, 2)
    scores.put(0, 2, {"psnr_db": np.array([8.0, 100.0])}, 1)
    scores.put(1, 0, {"psnr_db": np.array([5.0, np.nan])}, 2)
    summary = scores.summary("psnr_db")
    assert (summary.mean, summary.median, summary.count) == (pytest.approx(17 / 4), 4.0, 4)
    assert scores.curve("psnr_db") == pytest.approx([3.0, 3.0, 8.0, np.nan], nan_ok=True)
    assert scores.per_clip("psnr_db") == pytest.approx([4.0, 5.0])
    with pytest.raises(ValueError, match="cannot be scored"):
        scores.put(0, 3, {"psnr_db": np.zeros(2)}, 2)


def test_paired_differences() -> None:
    a, b = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 2.0, 9.0])
    paired = Paired.of(a, b)
    assert paired.difference == pytest.approx(2 / 3)
    assert paired.error == pytest.approx(np.std([1, 2, -1], ddof=1) / np.sqrt(3))
    assert (paired.share, paired.clips, paired.clear) == (pytest.approx(2 / 3), 3, False)
    assert Paired.of(np.zeros(9), 1.0 + 0.1 * np.arange(9)).clear
    assert not Paired.of(np.array([np.nan]), np.array([1.0])).clear
