"""From a dataset folder to a checkpoint: the same curve after a kill, exact refusals, and what is written down."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calibration.poses import ActionConvention
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.data.latents import LatentError
from prophrl_models.data.split import held_out
from prophrl_models.prophet.checkpoint import load_prophet, read_sampling
from prophrl_models.prophet.codec_train import CodecTrainOptions
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.train import train_prophet
from prophrl_models.prophet.train_data import network_config
from prophrl_models.prophet.train_open import Origin
from prophrl_models.prophet.train_settings import ClipOptions, ProphetTrainConfig, load_prophet_config
from prophrl_models.prophet.trained_on import RECORD, TrainedOn
from prophrl_models.prophet.worlds import load_world
from prophrl_models.training.loop import LoopOptions
from prophrl_models.training.settings import TrainingError
from tests.helpers.prophet_data import codec_folder, new_codec, write_reaches
from tests.helpers.prophet_runs import CONFIG
from tests.helpers.reaches import camera, reach

pytestmark = pytest.mark.timeout(600)
PRESETS = Path(__file__).parents[3] / "config" / "prophet"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a codec, and latents that all tests share."""
    folder = tmp_path_factory.mktemp("world")
    write_reaches(folder / "dataset", 3)
    codec_folder(folder / "codec")
    return folder


def brief(steps: int = 3, **changes: object) -> ProphetTrainConfig:
    loop = dataclasses.replace(CONFIG.loop, steps=steps, save_every=0)
    return dataclasses.replace(CONFIG, **{"loop": loop, **changes})


def origin(made: Path, **changes: object) -> Origin:
    return dataclasses.replace(Origin(codec=made / "codec", latents=made / "latents"), **changes)


@pytest.fixture(scope="module")
def checkpoint(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return train_prophet([made / "dataset"], out, brief(held_out=0.5), origin=origin(made))


def curve(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def run(*words: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.helpers.prophet_runs", *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=-1, stderr=-1, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> None:
    _, error = process.communicate(timeout=400)
    assert process.returncode == code, error


def test_compiled_blocks_learn_the_same(made: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for name, compiled in (("plain", False), ("compiled", True)):
        config = brief(2, compile=compiled)
        train_prophet([made / "dataset"], tmp_path / name, config, origin=origin(made), say=said.append)
    assert said == ["compiles the blocks"]
    assert curve(tmp_path / "compiled") == pytest.approx(curve(tmp_path / "plain"), rel=1e-4)


def test_the_checkpoint_says_where_it_comes_from(made: Path, checkpoint: Path) -> None:
    dataset = Dataset(made / "dataset")
    _, codec, config, provenance = load_prophet(checkpoint)
    assert config.convention is dataset.convention and config.control_rate_hz == 10.0
    assert provenance["dataset_hashes"] == [dataset.content_hash]
    assert provenance["calibration_ids"] == ["none"]  # the drawn episodes were recorded without one
    assert provenance["held_out"] == {"fraction": 0.5, "seed": 0}
    split = held_out(dataset, 0.5)
    trained_on = TrainedOn.of_provenance(provenance, "it")
    said = [trained_on.used(row.episode_id, "another dataset") for row in dataset.table]
    assert said == ["yes" if position in split.train else "no" for position in range(len(dataset))]
    assert provenance["training"]["batch_size"] == 4 and provenance["git_revision"]
    assert codec.config == new_codec().config
    statistics = dataset.normalisation().action
    low, high = statistics.q01[2], statistics.q99[2]
    scaled = config.action_scaling.normalise(torch.tensor([0.0, 0.0, low, 0.0, 0.0, 0.0, 0.3]))
    np.testing.assert_allclose(scaled[2], -1.0, atol=1e-5)
    np.testing.assert_allclose(config.action_scaling.scale[2], (high - low) / 2, rtol=1e-6)
    assert float(scaled[6]) == pytest.approx(0.3)
    assert not list(checkpoint.parent.glob("resume*"))
    started_with = json.loads((checkpoint.parent / "settings.json").read_text())
    assert "clips.weights" not in started_with  # runs from before datasets could weigh differently go on


def test_the_checkpoint_is_sampled_as_its_settings_say(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert read_sampling(checkpoint).steps == CONFIG.sampling_steps == 10
    folder = train_prophet([made / "dataset"], tmp_path / "run", brief(1, sampling_steps=2), origin=origin(made))
    assert read_sampling(folder).steps == 2 and load_world(folder).sampler.steps == 2
    assert load_prophet_config(PRESETS / "small.yaml").sampling_steps == 1
    with pytest.raises(TrainingError, match="sampling_steps must be at least 1, got 0"):
        brief(sampling_steps=0)


def test_channels_weigh_as_they_show_where_the_settings_say_so(made: Path, tmp_path: Path) -> None:
    plain = train_prophet([made / "dataset"], tmp_path / "plain", brief(2), origin=origin(made))
    settings = brief(2, channel_weighting="decoder")
    weighed = train_prophet([made / "dataset"], tmp_path / "weighed", settings, origin=origin(made))
    said = load_prophet(weighed)[3]["channel_weights"]
    assert len(said) == 16 and np.mean(said) == pytest.approx(1.0, abs=1e-3) and np.std(said) > 0.01
    assert "channel_weights" not in load_prophet(plain)[3]
    assert curve(tmp_path / "plain") != curve(tmp_path / "weighed")
    assert "channel_weighting" not in json.loads((tmp_path / "plain" / "settings.json").read_text())
    with pytest.raises(TrainingError, match="dataset folders"):
        brief(channel_weighting="decoder", mixture="mixture.yaml")


def test_the_checkpoint_is_the_moving_average_of_what_was_learned(made: Path, tmp_path: Path) -> None:
    folder = train_prophet([made / "dataset"], tmp_path / "a", brief(4), origin=origin(made))
    loop = dataclasses.replace(brief(4).loop, ema=0.0)
    raw = train_prophet([made / "dataset"], tmp_path / "b", brief(loop=loop), origin=origin(made))
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    a, b = load_file(folder / "model.safetensors"), load_file(raw / "model.safetensors")
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_killed_and_continued_it_follows_the_same_curve(made: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    kill_at = int(np.random.default_rng().integers(11, 23))  # after the first resume file, before the end
    words = ("--codec", made / "codec", "--latents", made / "latents", "--kill-at", kill_at)
    finish(run(made / "dataset", killed, *words), code=-9)
    assert (killed / "resume.safetensors").is_file()
    with pytest.raises(TrainingError, match=r"loop\.seed was 0, is 1"):
        other = dataclasses.replace(CONFIG, loop=dataclasses.replace(CONFIG.loop, seed=1))
        train_prophet([made / "dataset"], killed, other, origin=origin(made))
    with pytest.raises(TrainingError, match="unfinished run; leave --resume out"):
        train_prophet([made / "dataset"], killed, CONFIG, origin=origin(made), resume="never")
    train_prophet([made / "dataset"], killed, CONFIG, origin=origin(made), resume="required")
    train_prophet([made / "dataset"], tmp_path / "whole", CONFIG, origin=origin(made))
    np.testing.assert_allclose(curve(killed), curve(tmp_path / "whole"), atol=1e-6, rtol=0)
    a, b = (load_file(folder / "prophet" / "model.safetensors") for folder in (killed, tmp_path / "whole"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=0, msg=name)


def test_learning_lowers_the_loss_of_held_out_noise(made: Path, tmp_path: Path) -> None:
    loop = LoopOptions(steps=60, learning_rate=3e-3, warmup=5, ema=0.0, log_every=1, save_every=0, betas=(0.9, 0.99))
    train_prophet([made / "dataset"], tmp_path / "run", brief(loop=loop, micro_batch=4), origin=origin(made))
    losses = curve(tmp_path / "run")
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_a_codec_is_trained_along_and_used_again(made: Path, tmp_path: Path) -> None:
    codec = CodecTrainOptions(
        batch=2, crop=32, statistics_groups=8, loop=LoopOptions(steps=2, warmup=1, log_every=1, save_every=1)
    )
    out, said, told = tmp_path / "run", [], []
    settings = brief(1, codec=codec, held_out=0.5)
    folder = train_prophet([made / "dataset"], out, settings, say=said.append, codec_progress=told.append)
    assert "trains a codec" in said[0] and len(told) == 2
    assert (out / "codec" / "codec.safetensors").is_file() and (out / "latents").is_dir()
    again = Origin(codec=folder, latents=out / "latents")  # a world model's folder serves as a codec's
    other = train_prophet([made / "dataset"], tmp_path / "other", brief(1), origin=again)
    assert load_prophet(other)[3]["codec_hash"] == load_prophet(folder)[3]["codec_hash"]
    assert load_prophet(other)[3]["latents"] == load_prophet(folder)[3]["latents"]
    dataset = Dataset(made / "dataset")
    split = held_out(dataset, 0.5)
    for world in (folder, other):
        seen = TrainedOn.of_codec(load_prophet(world)[3], "it")
        said = [seen.used(row.episode_id, dataset.content_hash) for row in dataset.table]
        assert said == ["yes" if position in split.train else "no" for position in range(len(dataset))]


@pytest.mark.parametrize("stream", ["memory", "action_frames", "scalar_actions"])
def test_streams_can_be_switched_off_for_ablations(made: Path, tmp_path: Path, stream: str) -> None:
    off = {"memory": None, "action_frames": "none", "scalar_actions": False}[stream]
    settings = brief(1, network={stream: off})
    folder = train_prophet([made / "dataset"], tmp_path / "run", settings, origin=origin(made))
    network = load_prophet(folder)[0]
    assert getattr(network, stream) is None
    assert not any(name.startswith(f"{stream}.") for name, _ in network.named_parameters())


def test_going_on_from_a_checkpoint_keeps_its_units_and_may_add_streams(
    made: Path, checkpoint: Path, tmp_path: Path
) -> None:
    bare = brief(1, network={"memory": None})
    first = train_prophet([made / "dataset"], tmp_path / "bare", bare, origin=origin(made))
    memory = {"memory": {"strides": [[1, 2, 2], [1, 4, 6]]}}
    start = origin(made, codec=None, init=first)
    folder = train_prophet([made / "dataset"], tmp_path / "more", brief(1, network=memory), origin=start)
    network, _, config, provenance = load_prophet(folder)
    assert config.network.memory is not None and config.network.memory.strides == ((1, 2, 2), (1, 4, 6))
    assert network.memory is not None
    assert config.action_scaling == load_prophet(first)[2].action_scaling
    assert provenance["parent"]["checkpoint"] == "prophet"
    with pytest.raises(TrainingError, match="of another architecture"):
        wider = brief(1, network={"adaln_lora_dim": 8})
        train_prophet([made / "dataset"], tmp_path / "wider", wider, origin=start)


def test_episodes_of_the_weights_it_went_on_from_are_remembered(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    table = Dataset(made / "dataset").table
    kept_back = [table[position].episode_id for position in held_out(Dataset(made / "dataset"), 0.5).held_out]
    write_reaches(tmp_path / "later", 1, seed=5)  # another recording that bears the first one's name
    (name,) = (row.episode_id for row in Dataset(tmp_path / "later").table)
    assert name in kept_back
    start = origin(made, codec=None, init=checkpoint, latents=tmp_path / "latents")
    folder = train_prophet([tmp_path / "later"], tmp_path / "on", brief(1), origin=start)
    found = TrainedOn.of_provenance(load_prophet(folder)[3], "it")
    expected = ["yes" if row.episode_id == name or row.episode_id not in kept_back else "no" for row in table]
    assert [found.used(row.episode_id, "") for row in table] == expected and "no" in expected

    old = tmp_path / "old" / "prophet"  # a parent from before episodes were recorded
    shutil.copytree(checkpoint, old)
    provenance = json.loads((old / "provenance.json").read_text())
    del provenance[RECORD]
    (old / "provenance.json").write_text(json.dumps(provenance))
    folder = train_prophet(
        [tmp_path / "later"], tmp_path / "of_old", brief(1), origin=dataclasses.replace(start, init=old)
    )
    found = TrainedOn.of_provenance(load_prophet(folder)[3], "it")
    assert [found.used(row.episode_id, Dataset(made / "dataset").content_hash) for row in table] == expected
    trained = next(row.episode_id for row in table if row.episode_id not in kept_back)
    assert found.used(trained, "another dataset") == "unknown"


def test_lora_trains_adapters_and_new_modules_only_and_merges_them(
    made: Path, checkpoint: Path, tmp_path: Path
) -> None:
    start = origin(made, codec=None, init=checkpoint)
    folder = train_prophet([made / "dataset"], tmp_path / "run", brief(3, train="lora"), origin=start)
    before, after = load_file(checkpoint / "model.safetensors"), load_file(folder / "model.safetensors")
    new = set(load_prophet(checkpoint)[0].new_parameters())
    adapted = {f"{name}.weight" for name in load_prophet(checkpoint)[0].lora_targets()}
    assert set(before) == set(after)
    for name in before:
        moved = not torch.equal(before[name], after[name])
        assert moved == (name in new or name in adapted), name
    assert (tmp_path / "run" / "adapter" / "adapter.safetensors").is_file()


def test_data_that_means_something_else_is_refused(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = DatasetWriter(tmp_path / "local", DatasetHeader(convention=ActionConvention.LOCAL_FRAME_DELTA))
    episode = dataclasses.replace(reach((-0.6, 0.0)), convention=ActionConvention.LOCAL_FRAME_DELTA)
    other.add(episode, "reach-local")
    other.finish()
    start = origin(made, codec=None, init=checkpoint, camera=camera())
    with pytest.raises(TrainingError, match="LOCAL_FRAME_DELTA, the checkpoint reads ABSOLUTE_POSE_DIFFERENCE"):
        train_prophet([tmp_path / "local"], tmp_path / "run", brief(), origin=start)
    with pytest.raises(TrainingError, match="different convention"):
        train_prophet([made / "dataset", tmp_path / "local"], tmp_path / "run", brief(), origin=origin(made))
    with pytest.raises(TrainingError, match="takes 20 actions of 14 numbers, the settings ask for 8"):
        train_prophet([made / "dataset"], tmp_path / "run", brief(network={"actions": 8}), origin=start)
    assert not (tmp_path / "run").exists()


def test_sizes_that_do_not_go_together_are_refused(made: Path, tmp_path: Path) -> None:
    cases = (
        (brief(size="huge"), "unknown preset 'huge'"),
        (brief(network={"latent_channels": 8}), "agree on latent_channels, got 16 and 8"),
        (brief(network={"actions": 18}), "multiples of 4"),
        (brief(network={"colour": 1}), "colour"),
        (brief(batch_size=3), "batch_size 3 is not a positive multiple of micro_batch 2 x 1"),
    )
    for settings, message in cases:
        with pytest.raises((TrainingError, LatentError), match=message):
            train_prophet([made / "dataset"], tmp_path / "run", settings, origin=origin(made))
    with pytest.raises(TrainingError, match=r"no dataset|name folders exactly"):
        train_prophet([], tmp_path / "run", brief(), origin=origin(made))


def test_action_frames_need_a_camera_which_may_be_given(made: Path, tmp_path: Path) -> None:
    write_reaches(tmp_path / "blind", 1, calibrated=False)
    latents = tmp_path / "latents"
    with pytest.raises(LatentError, match="give a calibration with --camera FILE"):
        train_prophet([tmp_path / "blind"], tmp_path / "run", brief(1), origin=origin(made, latents=latents))
    seeing = origin(made, latents=latents, camera=camera())
    train_prophet([tmp_path / "blind"], tmp_path / "with", brief(1), origin=seeing)
    without = brief(1, network={"action_frames": "none"})
    train_prophet([tmp_path / "blind"], tmp_path / "without", without, origin=origin(made, latents=latents))


def test_weights_with_nan_stop_the_training_with_a_sentence(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    loop = dataclasses.replace(brief().loop, learning_rate=1e30, warmup=0, steps=20)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train_prophet([made / "dataset"], tmp_path / "run", brief(loop=loop), origin=origin(made))


def test_finished_and_missing_runs_are_told_apart(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds a finished training"):
        train_prophet([made / "dataset"], checkpoint.parent, brief(), origin=origin(made))
    with pytest.raises(TrainingError, match="no unfinished run"):
        train_prophet([made / "dataset"], tmp_path / "new", brief(), origin=origin(made), resume="required")


def test_a_networks_settings_may_name_parts_of_its_memory() -> None:
    changed = network_config(preset("small").network, {"memory": {"order": "oldest_fine"}, "rope_scale": [1, 2, 2]})
    assert changed.memory is not None and changed.memory.order == "oldest_fine" and changed.rope_scale == (1, 2, 2)
    assert network_config(changed, {"memory": None}).memory is None
    with pytest.raises(TrainingError, match="unknown memory order"):
        network_config(preset("small").network, {"memory": {"order": "shuffled"}})


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_presets_are_readable_and_consistent(file: Path) -> None:
    config = load_prophet_config(file)
    assert config.passes(1) >= 1
    assert 0 < config.loop.warmup < config.loop.steps
    base = preset(config.size)
    network_config(base.network, config.network)
    if base.codec.kind == "small":
        dataclasses.replace(config.codec, image_height=base.image_height, image_width=base.image_width)


def test_all_presets_that_the_manual_names_exist() -> None:
    names = {file.stem for file in PRESETS.glob("*.yaml")}
    assert names >= {"paper_pretrain", "paper_finetune", "one_80gb", "one_24gb", "few_shot", "small", "tiny"}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["full", "lora"])
def test_two_processes_equal_one(made: Path, checkpoint: Path, tmp_path: Path, what: str) -> None:
    start = ["--init", checkpoint] if what == "lora" else ["--codec", made / "codec"]
    words = [made / "dataset", "--latents", made / "latents", *start, "--steps", "8", "--train", what]
    finish(run(words[0], tmp_path / "one", *words[1:]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [
        run(words[0], tmp_path / "two", *words[1:], environment={**shared, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(2)
    ]
    for process in both:
        finish(process)
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(tmp_path / "one"), atol=2e-5, rtol=0)
    a, b = (load_file(tmp_path / name / "prophet" / "model.safetensors") for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=1e-4, msg=name)
    assert not list((tmp_path / "two").glob("resume*"))


def test_clip_options_reach_the_training(made: Path, tmp_path: Path) -> None:
    plain = brief(1, clips=ClipOptions())
    train_prophet([made / "dataset"], tmp_path / "a", plain, origin=origin(made))
    for name, options in (("b", ClipOptions(context_noise=0.5)), ("c", ClipOptions(imagined_share=1.0))):
        train_prophet([made / "dataset"], tmp_path / name, brief(1, clips=options), origin=origin(made))
        assert curve(tmp_path / "a") != curve(tmp_path / name)


def test_a_past_is_imagined_from_the_part_of_the_run_that_was_asked(made: Path, tmp_path: Path) -> None:
    for name, start in (("all", 0.0), ("late", 0.5), ("never", 1.0)):
        options = ClipOptions(imagined_share=1.0, imagined_from=start)
        train_prophet([made / "dataset"], tmp_path / name, brief(4, clips=options), origin=origin(made))
    whole, late, never = (curve(tmp_path / name) for name in ("all", "late", "never"))
    assert late[:2] == never[:2] != whole[:2] and late[2] != never[2]


def test_an_imagined_past_is_for_dataset_folders() -> None:
    with pytest.raises(TrainingError, match="leave it out with a mixture"):
        ProphetTrainConfig(mixture="mixture.yaml", clips=ClipOptions(imagined_share=0.5))
