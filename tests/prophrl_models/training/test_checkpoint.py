"""Checkpoints: the policy that comes back is the one that went in, or an error says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prophrl_models.data.normalise import Normalisation
from prophrl_models.policies.interface import FlowPolicy, ObservationBatch, PolicySpec
from prophrl_models.policies.load import load_policy
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from prophrl_models.training.checkpoint import CheckpointError, read_checkpoint, save_policy, sha256
from prophrl_models.training.frames import policy_scalings
from tests.helpers.reaches import CONVENTION, INSTRUCTION, camera

Spoil = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def policy(normalisation: Normalisation) -> FlowPolicy:
    action, state = policy_scalings(normalisation)
    torch.manual_seed(0)
    spec = PolicySpec(CONVENTION, action, state, instructions=(INSTRUCTION,), chunk=8)
    made = TinyPolicy(spec, TinyConfig(channels=8, width=16, cond_width=16, heads=2, bf16=False)).eval()
    made.camera.set(camera())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def saved(policy: FlowPolicy, normalisation: Normalisation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    provenance = {"dataset_hash": normalisation.dataset_hash, "calibration_ids": ["3f0c9a51d2be"]}
    return save_policy(tmp_path_factory.mktemp("checkpoints") / "policy", policy, normalisation, provenance)


@pytest.fixture
def own(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "policy")


def observation() -> ObservationBatch:
    image = torch.randint(0, 255, (2, 240, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    state = torch.tensor([[-0.65, 0.0, 0.3, np.pi, 0.0, np.pi / 2, 1.0]] * 2, dtype=torch.float32)
    return ObservationBatch(image, state, (INSTRUCTION,) * 2)


def rewrite(folder: Path, name: str, spoil: Spoil, *, rehash: bool = True) -> None:
    """Change a JSON file; ``rehash`` makes the change look deliberate."""
    content = json.loads((folder / name).read_text())
    spoil(content)
    (folder / name).write_text(json.dumps(content))
    if rehash and name != "provenance.json":
        rewrite(folder, "provenance.json", lambda p: p["sha256"].update({name: sha256(folder / name)}))


def test_loaded_policy_gives_the_same_chunks(policy: FlowPolicy, saved: Path) -> None:
    loaded = load_policy(saved)
    noise = policy.draw_noise(2, torch.Generator().manual_seed(2))
    before, after = (p.sample_actions(observation(), noise)[0] for p in (policy, loaded))
    assert torch.equal(before, after)
    assert loaded.spec == policy.spec and not loaded.training


def test_checkpoint_holds_four_files_and_no_pickle(saved: Path) -> None:
    assert sorted(f.name for f in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
        "normalisation.json",
        "provenance.json",
    ]
    assert [f.name for f in saved.parent.iterdir()] == ["policy"]  # no temporary folder is left


def test_provenance_names_data_code_and_calibration(saved: Path, normalisation: Normalisation) -> None:
    provenance = read_checkpoint(saved).provenance
    assert provenance["dataset_hash"] == normalisation.dataset_hash
    assert provenance["calibration_ids"] == ["3f0c9a51d2be"]
    assert provenance["git_revision"] and provenance["torch"] == torch.__version__


def test_saving_again_replaces_the_older_checkpoint(
    policy: FlowPolicy, normalisation: Normalisation, own: Path
) -> None:
    provenance = {"dataset_hash": normalisation.dataset_hash, "calibration_ids": [], "note": "second"}
    save_policy(own, policy, normalisation, provenance)
    assert read_checkpoint(own).provenance["note"] == "second"
    assert [f.name for f in own.parent.iterdir()] == ["policy"]


def test_failed_save_leaves_the_older_checkpoint(policy: FlowPolicy, normalisation: Normalisation, own: Path) -> None:
    before = sha256(own / "model.safetensors")
    provenance = {"dataset_hash": normalisation.dataset_hash, "calibration_ids": [], "note": {1, 2}}  # a set: no JSON
    with pytest.raises(TypeError):
        save_policy(own, policy, normalisation, provenance)
    assert sha256(own / "model.safetensors") == before and load_policy(own)
    assert [f.name for f in own.parent.iterdir()] == ["policy"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "normalisation.json", "provenance.json"])
def test_missing_file_is_named(own: Path, name: str) -> None:
    (own / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_policy(own)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "normalisation.json"])
def test_altered_file_is_refused(own: Path, name: str) -> None:
    content = bytearray((own / name).read_bytes())
    content[-10] ^= 1
    (own / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{name}.*SHA-256"):
        load_policy(own)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["spec"].pop("convention"), "convention None is none of LOCAL_FRAME_DELTA"),
        (lambda c: c["spec"].update(convention="RELATIVE"), "convention 'RELATIVE'"),
        (lambda c: c["spec"].pop("chunk"), r"lacks \['chunk'\]"),
        (lambda c: c["spec"].update(speed=2), r"unknown \['speed'\]"),
        (lambda c: c["spec"]["action_scaling"].update(scale=[1.0]), "spec cannot be used"),
        (lambda c: c["spec"]["action_scaling"]["scale"].__setitem__(0, 0.0), "scale other than 0"),
        (lambda c: c.update(format=99), "format 99"),
        (lambda c: c.update(kind="huge"), "unknown kind of policy 'huge'; known: tiny"),
        (lambda c: c["architecture"].update(width=32), "do not fit together"),
        (lambda c: c["architecture"].update(wings=2), "do not fit together"),
        (lambda c: c.pop("architecture"), "no field 'architecture'"),
    ],
)
def test_wrong_configuration_is_refused(own: Path, spoil: Spoil, message: str) -> None:
    rewrite(own, "config.json", spoil)
    with pytest.raises(CheckpointError, match=message):
        load_policy(own)


def test_statistics_of_another_dataset_are_refused(own: Path) -> None:
    rewrite(own, "provenance.json", lambda p: p.update(dataset_hash="0" * 64))
    with pytest.raises(CheckpointError, match="belongs to dataset"):
        load_policy(own)


def test_saving_with_statistics_of_another_dataset_is_refused(
    policy: FlowPolicy, normalisation: Normalisation, tmp_path: Path
) -> None:
    other = replace(normalisation, dataset_hash="0" * 64)
    provenance = {"dataset_hash": normalisation.dataset_hash, "calibration_ids": []}
    with pytest.raises(CheckpointError, match="do not belong"):
        save_policy(tmp_path / "policy", policy, other, provenance)
    assert not (tmp_path / "policy").exists()


def test_provenance_without_dataset_is_refused(
    policy: FlowPolicy, normalisation: Normalisation, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="dataset_hash"):
        save_policy(tmp_path / "policy", policy, normalisation, {"calibration_ids": []})


def test_pickled_weights_are_not_read(own: Path) -> None:
    torch.save({"a": torch.zeros(1)}, own / "model.safetensors")
    digest = sha256(own / "model.safetensors")
    rewrite(own, "provenance.json", lambda p: p["sha256"].update({"model.safetensors": digest}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_policy(own)
