"""``features.json`` of a TensorFlow Datasets folder: what each feature of a record is and how it was written.

A dataset of episodes (RLDS) is one record per episode; everything under ``steps`` has a leading step axis and is
stored flat under its path, e.g. ``steps/observation/image``. Names may hold a slash themselves (BC-Z: ``present/xyz``).

Source: tensorflow/datasets core/features and core/example_serializer.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophrl_models.data.registry.errors import RegistryError

FEATURES_FILE = "features.json"


@dataclass(frozen=True)
class Leaf:
    """One stored feature.

    Attributes:
        path: its key in the record.
        kind: "image", "text" or "tensor".
        shape: of one step (or of the episode); -1 where it varies.
        dtype: as TensorFlow names it.
        per_step: it has the leading step axis.
        encoding: "none", "bytes" or "zlib" for tensors.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    per_step: bool
    encoding: str = "none"


def read_features(folder: Path) -> dict[str, Leaf]:
    """Every leaf of ``features.json`` by path.

    Raises:
        RegistryError: missing, no JSON, or a kind of feature that this reader does not know.
    """
    file = folder / FEATURES_FILE
    try:
        raw = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise RegistryError(
            f"no {FEATURES_FILE} in {folder}; pass a TFDS version folder such as bridge/1.0.0"
        ) from error
    except json.JSONDecodeError as error:
        raise RegistryError(f"{file} is not JSON ({error}); fetch it again") from error
    return {leaf.path: leaf for leaf in _leaves(raw, "", False, file)}


def _leaves(node: Mapping[str, Any], path: str, per_step: bool, file: Path) -> Iterator[Leaf]:
    if "featuresDict" in node:
        for name, child in (node["featuresDict"].get("features") or {}).items():
            yield from _leaves(child, f"{path}/{name}" if path else name, per_step, file)
        return
    if "sequence" in node:
        if per_step:
            return  # a sequence inside a step is stored ragged; no dataset of the registry needs one
        yield from _leaves(node["sequence"]["feature"], path, True, file)
        return
    kinds = [kind for kind in ("image", "text", "tensor") if kind in node]
    if not kinds:
        name = str(node.get("pythonClassName", "?")).rsplit(".", 1)[-1]
        raise RegistryError(f"{file}: feature {path!r} is a {name}; read are Tensor, Scalar, Text, Image, Dataset")
    kind = kinds[0]
    detail = node[kind] or {}
    shape = tuple(int(size) for size in (detail.get("shape") or {}).get("dimensions", ()))
    dtype = "string" if kind == "text" else str(detail.get("dtype", "uint8"))
    yield Leaf(path, kind, shape, dtype, per_step, str(detail.get("encoding", "none")).lower())
