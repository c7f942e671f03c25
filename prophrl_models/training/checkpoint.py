"""Policy checkpoints: a folder of a few files, written at once or not at all, and checked when loaded.

    model.safetensors   weights
    config.json         kind of policy, its architecture, its spec (convention, rate, sizes, scalings, instructions)
    normalisation.json  statistics of the dataset, as ``data.normalise`` writes them
    assets/             what else the policy's class needs (a tokeniser); absent when it needs nothing
    provenance.json     where it comes from, and the SHA-256 of all other files

A checkpoint that says nothing about its action convention, or something the loader does not know, is refused: an
arm that reads local deltas as absolute ones moves, and moves wrongly.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from calibration.poses import ActionConvention
from prophrl_models.data.files import publish_tree, sync_folder, write_json
from prophrl_models.data.normalise import FILE_NAME as NORMALISATION
from prophrl_models.data.normalise import Normalisation, NormalisationError
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import FlowPolicy, PolicySpec
from prophrl_models.training.state_source import check_state_source

FORMAT = 1
ADDED_LATER = ("state_source",)
"""Spec fields that checkpoints of format 1 may lack; their defaults say what those policies did."""
WEIGHTS, CONFIG, PROVENANCE, ASSETS = "model.safetensors", "config.json", "provenance.json", "assets"


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted; the message names the file, the value and what to do."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The verified contents of a checkpoint folder, before a policy is built from them."""

    folder: Path
    kind: str
    architecture: Mapping[str, Any]
    spec: PolicySpec
    tensors: Mapping[str, torch.Tensor]
    normalisation: Normalisation
    provenance: Mapping[str, Any]
    assets: Mapping[str, bytes]

    @property
    def sync(self) -> SyncSpec | None:
        """How observations were formed in training; None where the provenance does not say."""
        recorded = self.provenance.get("sync")
        return SyncSpec.from_json(recorded) if recorded else None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish_folder(folder: str | Path, fill: Callable[[Path], Sequence[str]], provenance: Mapping[str, Any]) -> Path:
    """Write a checkpoint folder; an older one at the same place is replaced only when the new one is complete.

    Args:
        fill: writes everything but the provenance into the folder it is given; returns the names of its files, whose
            hashes are recorded.
        provenance: written beside them; source revision, time, torch version and the hashes are added.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        names = fill(temporary)
        record = {
            "git_revision": git_revision(),
            "created_ns": time.time_ns(),
            "torch": torch.__version__,
            "parent": None,
            **provenance,
            "sha256": {name: sha256(temporary / name) for name in names},
        }
        write_json(temporary / PROVENANCE, record)
        older = folder.with_name(f".{folder.name}.old.{os.getpid()}")
        if folder.exists():
            os.replace(folder, older)
        publish_tree(temporary, folder)
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def verified_provenance(folder: Path, names: Sequence[str], what: str, *, prefix: str | None = None) -> dict[str, Any]:
    """The provenance of a folder that ``publish_folder`` wrote, after all its files were compared with their hashes.

    Args:
        names: files that must be there.
        what: what such a folder is and who writes it, for the message about a file that is missing.
        prefix: check, beside ``names``, the recorded files whose names begin so; None: all of them.

    Raises:
        CheckpointError: a file is missing or was altered.
    """
    for name in (*names, PROVENANCE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; {what}")
    provenance = read_json(folder / PROVENANCE)
    recorded = field_of(provenance, "sha256", folder / PROVENANCE)
    more = [name for name in recorded if prefix is None or name.startswith(prefix)]
    for name in dict.fromkeys((*names, *sorted(more))):
        if not (folder / name).is_file() or recorded.get(name) != sha256(folder / name):
            raise CheckpointError(f"{folder / name} is not the file that was saved (SHA-256 differs); copy it again")
    return provenance


def read_config_json(path: Path, known_format: int) -> dict[str, Any]:
    """A checkpoint's ``config.json``.

    Raises:
        CheckpointError: it is no JSON object, or of another format.
    """
    config = read_json(path)
    if config.get("format") != known_format:
        raise CheckpointError(f"{path}: format {config.get('format')!r}, this version reads {known_format}")
    return config


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}; train again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def field_of(values: Mapping[str, Any], name: str, path: Path) -> Any:
    """A field of a checkpoint's file.

    Raises:
        CheckpointError: it is missing.
    """
    if name not in values:
        raise CheckpointError(f"{path} has no field {name!r}; was it edited by hand? Train again")
    return values[name]


def on_cpu(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as they can be saved: detached, in main memory, contiguous."""
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def git_revision() -> str:
    """Revision of the source this process runs from, with ``-dirty`` when it was changed; "unknown" outside git."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # an installed package has no git; provenance says so instead of failing the training
    return run.stdout.strip() or "unknown"


def save_policy(
    folder: str | Path, policy: FlowPolicy, normalisation: Normalisation, provenance: Mapping[str, Any]
) -> Path:
    """Write a checkpoint folder; an older one at the same place is replaced only when the new one is complete.

    Args:
        normalisation: statistics of the data that the policy's scalings were made from.
        provenance: at least ``dataset_hash`` and ``calibration_ids``; git revision, time and hashes are added.

    Raises:
        CheckpointError: ``provenance`` lacks one of them, or the statistics belong to other data.
    """
    for key in ("dataset_hash", "calibration_ids"):
        if key not in provenance:
            raise CheckpointError(f"provenance needs the key {key!r}; pass what the policy was trained on")
    if provenance["dataset_hash"] != normalisation.dataset_hash:
        raise CheckpointError(
            f"statistics of dataset {normalisation.dataset_hash[:12]} do not belong to a policy trained on "
            f"{str(provenance['dataset_hash'])[:12]}; pass that dataset's own"
        )

    def fill(temporary: Path) -> list[str]:
        save_file(on_cpu(policy.state_dict()), temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / CONFIG, _config(policy))
        normalisation.save(temporary)
        files = [WEIGHTS, CONFIG, NORMALISATION]
        for name, content in policy.assets().items():
            (temporary / ASSETS).mkdir(exist_ok=True)
            (temporary / ASSETS / name).write_bytes(content)
            files.append(f"{ASSETS}/{name}")
        return files

    return publish_folder(folder, fill, provenance)


def _config(policy: FlowPolicy) -> dict[str, Any]:
    return {"format": FORMAT, "kind": policy.kind, "architecture": policy.config(), "spec": policy.spec.to_json()}


def read_checkpoint(folder: str | Path) -> CheckpointFiles:
    """Read and verify a checkpoint folder.

    Raises:
        CheckpointError: a file is missing or altered, or a field is missing, unknown or of the wrong shape.
    """
    folder = Path(folder)
    what = (
        f"a policy checkpoint is a folder with {WEIGHTS}, {CONFIG}, {NORMALISATION} and {PROVENANCE}, as "
        "'prophrl train' writes it"
    )
    provenance = verified_provenance(folder, (WEIGHTS, CONFIG, NORMALISATION), what, prefix=f"{ASSETS}/")
    assets = sorted(name for name in provenance["sha256"] if name.startswith(f"{ASSETS}/"))
    config = read_config_json(folder / CONFIG, FORMAT)
    try:
        normalisation = Normalisation.load(folder, field_of(provenance, "dataset_hash", folder / PROVENANCE))
    except NormalisationError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return CheckpointFiles(
        folder,
        str(field_of(config, "kind", folder / CONFIG)),
        field_of(config, "architecture", folder / CONFIG),
        _spec(field_of(config, "spec", folder / CONFIG), folder / CONFIG),
        read_tensors(folder / WEIGHTS),
        normalisation,
        provenance,
        {name.removeprefix(f"{ASSETS}/"): (folder / name).read_bytes() for name in assets},
    )


def _spec(raw: Mapping[str, Any], path: Path) -> PolicySpec:
    known = {f.name for f in fields(PolicySpec)}
    choices = [c.name for c in ActionConvention]
    if raw.get("convention") not in choices:
        raise CheckpointError(
            f"{path}: convention {raw.get('convention')!r} is none of {', '.join(choices)}; without it the policy's "
            "actions have no meaning"
        )
    missing, unknown = sorted(known - set(raw) - set(ADDED_LATER)), sorted(set(raw) - known)
    if missing or unknown:
        raise CheckpointError(f"{path}: spec lacks {missing} and has unknown {unknown}; train the policy again")
    try:
        check_state_source(raw.get("state_source", "measured"))
        return PolicySpec.from_json(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: spec cannot be used: {error!r}") from error
