"""Reads RLDS episodes from a TensorFlow Datasets folder, without TensorFlow.

<name>/<version>/features.json                               what a record holds
<name>/<version>/dataset_info.json                           splits: records per shard, file names
<name>/<version>/<name>-<split>.tfrecord-00000-of-00016      records: one episode each

Source: tensorflow/datasets (core/dataset_info, core/splits, core/file_adapters), google-research/rlds.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.registry.errors import CorruptFileError, RegistryError
from prophrl_models.data.registry.frames import EncodedFrames, FrameSource
from prophrl_models.data.registry.raw import Outline, RawEpisode
from prophrl_models.data.registry.tf_example import StoredFeature, Values, parse_example
from prophrl_models.data.registry.tfds_features import FEATURES_FILE, Leaf, read_features
from prophrl_models.data.registry.tfrecord import read_record, record_offsets

INFO_FILE = "dataset_info.json"


class RldsSource:
    """One split of a TFDS version folder.

    Attributes:
        folder: the version folder.
        features: its leaves by path.
    """

    format = "rlds"
    rate_hz: float | None = None

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        """Open a folder that holds ``features.json``, or whose only sub-folder with one is meant.

        Raises:
            RegistryError: no such folder, split or shard, or damaged descriptions.
        """
        self.folder = _version_folder(Path(folder))
        self.features = read_features(self.folder)
        self.name, self._shards, self._counts = _shards(self.folder, split)
        self._ends = list(np.cumsum(self._counts))
        self._offsets: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def episode(self, index: int) -> RawEpisode:
        """One episode; numbers and pictures are decoded when they are looked at.

        Raises:
            CorruptFileError: damaged record, with file and offset.
        """
        shard, position = self._place(index)
        file = self._shards[shard]
        offset = self._shard_offsets(shard)[position]
        data = read_record(file, offset)
        where = f"{file}, record at byte {offset}"
        try:
            example = parse_example(data)
        except CorruptFileError as error:
            raise CorruptFileError(f"{where}: {error}; this is no tf.train.Example") from error
        return _Episode(self, example, where, self.episode_id(index)).raw

    def episode_id(self, index: int) -> str:
        """File and number of the record in it."""
        shard, position = self._place(index)
        return f"{self._shards[shard].name}#{position}"

    def recorded_id(self, index: int) -> str | None:
        """None: others recorded them."""
        return None

    def outline(self, index: int) -> Outline | None:
        """None: only the record itself knows how many steps it has."""
        return None

    def _place(self, index: int) -> tuple[int, int]:
        """Shard of an episode, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} is outside 0..{len(self) - 1} of {self.folder}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, int(index - (self._ends[shard] - self._counts[shard]))

    def _shard_offsets(self, shard: int) -> list[int]:
        if shard not in self._offsets:
            offsets = record_offsets(self._shards[shard])
            if len(offsets) != self._counts[shard]:
                raise CorruptFileError(
                    f"{self._shards[shard]} holds {len(offsets)} records, {INFO_FILE} says {self._counts[shard]}; "
                    "fetch both again"
                )
            self._offsets[shard] = offsets
        return self._offsets[shard]


class _Episode:
    """Decodes one record by the folder's features."""

    def __init__(self, source: RldsSource, example: Mapping[str, StoredFeature], where: str, episode_id: str) -> None:
        self.where = where
        present = {path: leaf for path, leaf in source.features.items() if path in example}
        columns = {p: _Numbers(example[p], leaf, where) for p, leaf in present.items() if _is_number(leaf)}
        texts = {p: _first_text(example[p]) for p, leaf in present.items() if _is_text(leaf)}
        frames = {p: _Pictures(example[p], leaf, where) for p, leaf in present.items() if leaf.kind == "image"}
        per_step = {p: c for p, c in columns.items() if source.features[p].per_step}
        self.raw = RawEpisode(
            columns=_Decoded(per_step),
            frames=_DecodedPictures(frames),
            texts=texts,
            episode_id=episode_id,
            where=where,
            folder=source.folder,
            metadata=_Decoded({p: c for p, c in columns.items() if not source.features[p].per_step}),
        )


class _Numbers:
    def __init__(self, feature: StoredFeature, leaf: Leaf, where: str) -> None:
        self._feature, self._leaf, self._where = feature, leaf, where

    def array(self) -> NDArray[Any]:
        leaf = self._leaf
        values = self._feature.values()
        if isinstance(values, list) and values:
            raise RegistryError(
                f"{self._where}: {leaf.path!r} is stored as bytes (encoding {leaf.encoding!r}); plain numbers are read"
            )
        shape = (-1, *leaf.shape) if leaf.per_step else (leaf.shape or (-1,))
        try:
            return np.asarray(values).reshape(shape)
        except ValueError as error:
            raise CorruptFileError(
                f"{self._where}: {leaf.path!r} has {len(values)} numbers, which do not make steps of shape {leaf.shape}"
            ) from error


class _Pictures:
    def __init__(self, feature: StoredFeature, leaf: Leaf, where: str) -> None:
        self._feature, self._leaf, self._where = feature, leaf, where

    def frames(self) -> FrameSource:
        values: Values = self._feature.values()
        if not isinstance(values, list):
            raise CorruptFileError(f"{self._where}: {self._leaf.path!r} is declared as pictures but holds numbers")
        return EncodedFrames(tuple(values), f"{self._where}, {self._leaf.path}")


class _Decoded(Mapping[str, NDArray[Any]]):
    """Columns that are decoded on access."""

    def __init__(self, numbers: Mapping[str, _Numbers]) -> None:
        self._numbers = numbers

    def __getitem__(self, key: str) -> NDArray[Any]:
        return self._numbers[key].array()

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class _DecodedPictures(Mapping[str, FrameSource]):
    def __init__(self, pictures: Mapping[str, _Pictures]) -> None:
        self._pictures = pictures

    def __getitem__(self, key: str) -> FrameSource:
        return self._pictures[key].frames()

    def __iter__(self) -> Iterator[str]:
        return iter(self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)


def _is_text(leaf: Leaf) -> bool:
    return leaf.kind == "text" or (leaf.kind == "tensor" and leaf.dtype in ("string", "object"))


def _is_number(leaf: Leaf) -> bool:
    return leaf.kind == "tensor" and not _is_text(leaf)


def _first_text(feature: StoredFeature) -> str:
    values = feature.values()
    first = values[0] if isinstance(values, list) and values else b""
    return first.decode("utf-8", errors="replace")


def _version_folder(folder: Path) -> Path:
    if (folder / FEATURES_FILE).is_file():
        return folder
    found = sorted(file.parent for file in folder.glob(f"*/{FEATURES_FILE}")) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    what = f"several versions ({', '.join(path.name for path in found)})" if found else f"no {FEATURES_FILE}"
    raise RegistryError(f"{what} in {folder}; pass a TFDS version folder such as {folder}/1.0.0")


def _shards(folder: Path, split: str) -> tuple[str, list[Path], list[int]]:
    """Name of the dataset, and files and record counts of a split."""
    file = folder / INFO_FILE
    try:
        info = json.loads(file.read_text())
        splits = {str(entry["name"]): entry for entry in info["splits"]}
        name = str(info["name"])
        if split not in splits:
            raise RegistryError(f"{file} has no split {split!r}; choose one of {', '.join(splits)}")
        entry = splits[split]
        counts = [int(count) for count in entry["shardLengths"]]
    except FileNotFoundError as error:
        raise RegistryError(f"no {INFO_FILE} in {folder}; fetch it, too") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, RegistryError):
            raise
        raise RegistryError(f"{file} is damaged ({error!r}); fetch it again") from error
    if info.get("fileFormat", entry.get("fileFormat", "tfrecord")) != "tfrecord":
        raise RegistryError(f"{file}: files are {info['fileFormat']!r}; read are tfrecord files")
    if not counts:
        raise RegistryError(f"{file}: split {split!r} holds no episodes")
    template = str(entry.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
    files = []
    for number in range(len(counts)):
        path = folder / template.format(
            DATASET=name,
            SPLIT=split,
            FILEFORMAT="tfrecord",
            SHARD_X_OF_Y=f"{number:05d}-of-{len(counts):05d}",
            SHARD_INDEX=f"{number:05d}",
            NUM_SHARDS=f"{len(counts):05d}",
        )
        if not path.is_file():
            raise RegistryError(
                f"shard {path.name} is missing in {folder}; fetch all {len(counts)} shards of {split!r}"
            )
        files.append(path)
    return name, files, counts
