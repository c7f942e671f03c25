"""Writes tiny datasets in the published layouts: TFDS/RLDS shards, LeRobot v2.1 and v3.0, LIBERO and AgiBot HDF5.

Written with the genuine libraries (protocol buffers, TensorBoard's CRC, pyarrow, PyAV, h5py), not with the readers'
code, so that what the readers find is what others write.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

PICTURE = (24, 32)
"""Height and width of the pictures; the readers take any size."""


@dataclass(frozen=True)
class Image:
    """An image leaf of a features.json."""

    shape: tuple[int, int, int] = (*PICTURE, 3)


@dataclass(frozen=True)
class Tensor:
    """A numeric leaf."""

    shape: tuple[int, ...] = ()
    dtype: str = "float32"


TEXT = "text"


def pictures(steps: int, seed: int = 0, size: tuple[int, int] = PICTURE) -> np.ndarray:
    """Smooth RGB pictures [T, H, W, 3]; red grows with the step, green left to right, blue top to bottom."""
    height, width = size
    result = np.zeros((steps, height, width, 3), np.uint8)
    result[..., 0] = (40 + 20 * np.arange(steps) + seed)[:, None, None] % 250
    result[..., 1] = np.linspace(0, 200, width).astype(np.uint8)
    result[..., 2] = np.linspace(0, 200, height).astype(np.uint8)[:, None]
    return result


# --- RLDS -------------------------------------------------------------------------------------------------------------


@cache
def example_class() -> Any:
    """tf.train.Example, declared as its .proto does and compiled by the protocol-buffer library."""
    file = descriptor_pb2.FileDescriptorProto(name="prophrl_test_example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> descriptor_pb2.DescriptorProto:
        entry = file.message_type.add(name=name)
        for field, number, label, kind, type_name in fields:
            entry.field.add(name=field, number=number, label=label, type=kind, type_name=type_name or None)
        return entry

    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    message("BytesList", ("value", 1, many, kinds.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, many, kinds.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, many, kinds.TYPE_INT64, ""))
    feature = message(
        "Feature",
        ("bytes_list", 1, one, kinds.TYPE_MESSAGE, ".t.BytesList"),
        ("float_list", 2, one, kinds.TYPE_MESSAGE, ".t.FloatList"),
        ("int64_list", 3, one, kinds.TYPE_MESSAGE, ".t.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    message("FeatureList", ("feature", 1, many, kinds.TYPE_MESSAGE, ".t.Feature"))
    for holder, field, value in (("Features", "feature", "Feature"), ("FeatureLists", "feature_list", "FeatureList")):
        entry_name = "FeatureEntry" if field == "feature" else "FeatureListEntry"
        owner = message(holder, (field, 1, many, kinds.TYPE_MESSAGE, f".t.{holder}.{entry_name}"))
        nested = owner.nested_type.add(name=entry_name)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, label=one, type=kinds.TYPE_STRING)
        nested.field.add(name="value", number=2, label=one, type=kinds.TYPE_MESSAGE, type_name=f".t.{value}")
    message("Example", ("features", 1, one, kinds.TYPE_MESSAGE, ".t.Features"))
    message(
        "SequenceExample",
        ("context", 1, one, kinds.TYPE_MESSAGE, ".t.Features"),
        ("feature_lists", 2, one, kinds.TYPE_MESSAGE, ".t.FeatureLists"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example")), message_factory.GetMessageClass(
        pool.FindMessageTypeByName("t.SequenceExample")
    )


def write_tfrecord(file: Path, records: Sequence[bytes]) -> None:
    """Records in TFRecord framing, with TensorBoard's CRC."""
    with file.open("wb") as stream:
        for record in records:
            length = struct.pack("<Q", len(record))
            stream.write(length + struct.pack("<I", masked_crc32c(length)))
            stream.write(record + struct.pack("<I", masked_crc32c(record)))


def write_rlds(
    folder: Path, name: str, schema: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]], shards: int = 1
) -> Path:
    """A TFDS version folder. ``schema`` mirrors the catalogue; ``episodes`` give values by path, the rest is zero."""
    version = folder / name / "0.1.0"
    version.mkdir(parents=True)
    (version / "features.json").write_text(json.dumps(_feature_json(schema, top=True)))
    groups = [list(group) for group in np.array_split(np.arange(len(episodes)), shards)]
    for number, group in enumerate(groups):
        records = [_example(schema, episodes[index]) for index in group]
        write_tfrecord(version / f"{name}-train.tfrecord-{number:05d}-of-{shards:05d}", records)
    info = {
        "fileFormat": "tfrecord",
        "name": name,
        "version": "0.1.0",
        "splits": [
            {
                "name": "train",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": [str(len(group)) for group in groups],
            }
        ],
    }
    (version / "dataset_info.json").write_text(json.dumps(info))
    return version


def _feature_json(node: Any, top: bool = False) -> dict[str, Any]:
    core = "tensorflow_datasets.core.features"
    if isinstance(node, Mapping):
        children = {}
        for name, child in node.items():
            entry = _feature_json(child)
            if top and name == "steps":
                entry = {
                    "pythonClassName": f"{core}.dataset_feature.Dataset",
                    "sequence": {"feature": entry, "length": "-1"},
                }
            children[name] = entry
        return {"pythonClassName": f"{core}.features_dict.FeaturesDict", "featuresDict": {"features": children}}
    if node == TEXT:
        return {"pythonClassName": f"{core}.text_feature.Text", "text": {}}
    shape = {"dimensions": [str(size) for size in node.shape]} if node.shape else {}
    if isinstance(node, Image):
        image = {"shape": shape, "dtype": "uint8", "encodingFormat": "jpeg"}
        return {"pythonClassName": f"{core}.image_feature.Image", "image": image}
    tensor = {"shape": shape, "dtype": node.dtype, "encoding": "none"}
    return {"pythonClassName": f"{core}.tensor_feature.Tensor", "tensor": tensor}


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a schema by path."""
    if not isinstance(node, Mapping):
        return {path: node}
    found: dict[str, Any] = {}
    for name, child in node.items():
        found |= leaves(child, f"{path}/{name}" if path else name)
    return found


def _example(schema: Mapping[str, Any], values: Mapping[str, Any]) -> bytes:
    unknown = set(values) - set(leaves(schema))
    assert not unknown, f"not in the schema: {unknown}"
    steps = next(
        len(values[path]) for path, leaf in leaves(schema).items() if isinstance(leaf, Image) and path in values
    )
    example = example_class()[0]()
    for path, leaf in leaves(schema).items():
        feature = example.features.feature[path]
        count = steps if path.startswith("steps/") else 1
        if isinstance(leaf, Image):
            frames = values.get(path, np.zeros((steps, *leaf.shape), np.uint8))
            for frame in frames:
                done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
                assert done
                feature.bytes_list.value.append(data.tobytes())
        elif leaf == TEXT:
            feature.bytes_list.value.extend([str(values.get(path, "")).encode()] * count)
        else:
            numbers = np.asarray(values.get(path, np.zeros((count, *leaf.shape)))).reshape(count, *leaf.shape)
            if leaf.dtype.startswith("float"):
                feature.float_list.value.extend(numbers.astype(np.float32).ravel().tolist())
            else:
                feature.int64_list.value.extend(numbers.astype(np.int64).ravel().tolist())
    return bytes(example.SerializeToString())


# --- LeRobot ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeRobotEpisode:
    """Numeric columns [T, K], text columns and pictures by key."""

    columns: Mapping[str, np.ndarray]
    frames: Mapping[str, np.ndarray]
    task: str
    texts: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def write_video(file: Path, frames: np.ndarray, fps: int) -> None:
    """An H.264 video with a key frame every two frames, as lerobot encodes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "2", "crf": "10", "preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_lerobot(
    folder: Path, version: str, fps: int, episodes: Sequence[LeRobotEpisode], images: str = "video"
) -> Path:
    """A LeRobotDataset of version "v2.1" or "v3.0"; ``images`` is "video" or "image" (bytes in the frame table)."""
    first = episodes[0]
    features: dict[str, Any] = {
        key: {"dtype": "float32", "shape": list(values.shape[1:]), "names": None}
        for key, values in first.columns.items()
    }
    features |= {key: {"dtype": "string", "shape": [1], "names": None} for key in first.texts or {}}
    for key, frames in first.frames.items():
        features[key] = {"dtype": images, "shape": list(frames.shape[1:]), "names": ["height", "width", "rgb"]}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for key in ("frame_index", "episode_index", "index", "task_index"):
        features[key] = {"dtype": "int64", "shape": [1], "names": None}
    info = {
        "codebase_version": version,
        "robot_type": "test",
        "total_episodes": len(episodes),
        "total_frames": sum(map(len, episodes)),
        "total_tasks": len({e.task for e in episodes}),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "features": features,
    }
    v3 = version.startswith("v3")
    info["data_path"] = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    )
    info["video_path"] = (
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    )
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    tasks = list(dict.fromkeys(e.task for e in episodes))
    tables, start = [], 0
    for number, episode in enumerate(episodes):
        tables.append(_frame_table(episode, number, start, fps, tasks.index(episode.task), images))
        start += len(episode)
    if v3:
        _write_v3(folder, fps, episodes, tables, tasks, images)
    else:
        _write_v2(folder, fps, episodes, tables, tasks, images)
    return folder


def _frame_table(episode: LeRobotEpisode, number: int, start: int, fps: int, task: int, images: str) -> pa.Table:
    steps = len(episode)
    columns: dict[str, Any] = {key: values.astype(np.float32).tolist() for key, values in episode.columns.items()}
    for key, text in (episode.texts or {}).items():
        columns[key] = [text] * steps
    if images == "image":
        for key, frames in episode.frames.items():
            columns[key] = [
                {"bytes": cv2.imencode(".png", frame[..., ::-1])[1].tobytes(), "path": None} for frame in frames
            ]
    columns["timestamp"] = (np.arange(steps) / fps).tolist()
    columns["frame_index"] = list(range(steps))
    columns["episode_index"] = [number] * steps
    columns["index"] = list(range(start, start + steps))
    columns["task_index"] = [task] * steps
    return pa.table(columns)


def _write_v2(
    folder: Path,
    fps: int,
    episodes: Sequence[LeRobotEpisode],
    tables: Sequence[pa.Table],
    tasks: Sequence[str],
    images: str,
) -> None:
    rows, task_rows = [], [json.dumps({"task_index": i, "task": task}) for i, task in enumerate(tasks)]
    for number, (episode, table) in enumerate(zip(episodes, tables, strict=True)):
        pq.write_table(table, folder / f"data/chunk-000/episode_{number:06d}.parquet")
        rows.append(json.dumps({"episode_index": number, "tasks": [episode.task], "length": len(episode)}))
        if images == "video":
            for key, frames in episode.frames.items():
                write_video(folder / f"videos/chunk-000/{key}/episode_{number:06d}.mp4", frames, fps)
    (folder / "meta/episodes.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "meta/tasks.jsonl").write_text("\n".join(task_rows) + "\n")


def _write_v3(
    folder: Path,
    fps: int,
    episodes: Sequence[LeRobotEpisode],
    tables: Sequence[pa.Table],
    tasks: Sequence[str],
    images: str,
) -> None:
    pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
    pq.write_table(
        pa.table({"task_index": list(range(len(tasks))), "__index_level_0__": list(tasks)}),
        folder / "meta/tasks.parquet",
    )
    rows: list[dict[str, Any]] = []
    start = 0
    for number, episode in enumerate(episodes):
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [episode.task],
            "length": len(episode),
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": start,
            "dataset_to_index": start + len(episode),
            "stats/action/mean": [0.0],
        }
        if images == "video":
            for key in episode.frames:
                row |= {
                    f"videos/{key}/chunk_index": 0,
                    f"videos/{key}/file_index": 0,
                    f"videos/{key}/from_timestamp": start / fps,
                    f"videos/{key}/to_timestamp": (start + len(episode)) / fps,
                }
        rows.append(row)
        start += len(episode)
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    if images == "video":
        for key in episodes[0].frames:
            joined = np.concatenate([episode.frames[key] for episode in episodes])
            write_video(folder / f"videos/{key}/chunk-000/file-000.mp4", joined, fps)


# --- HDF5 -------------------------------------------------------------------------------------------------------------


def write_libero(
    file: Path, demos: Sequence[Mapping[str, np.ndarray]], instruction: str | None = None, regenerated: bool = False
) -> None:
    """A LIBERO file; each demo gives "actions" and "obs/..." arrays. Regenerated files carry no attributes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as stored:
        data = stored.create_group("data")
        if not regenerated:
            data.attrs["env_args"] = json.dumps({"env_name": "libero"})
            if instruction is not None:
                data.attrs["problem_info"] = json.dumps({"language_instruction": instruction})
        for number, demo in enumerate(demos):
            group = data.create_group(f"demo_{number}")
            for key, values in demo.items():
                group.create_dataset(key, data=values)
            steps = len(demo["actions"])
            group.create_dataset("dones", data=np.arange(steps) == steps - 1)


def write_agibot(
    folder: Path,
    task: int,
    episode: int,
    states: Mapping[str, np.ndarray],
    frames: np.ndarray,
    *,
    name: str,
    extrinsics: np.ndarray | None = None,
    lens: Mapping[str, float] | None = None,
) -> None:
    """One episode of AgiBot World; ``extrinsics`` are camera poses [T or 1, 4, 4] in the frame of the states."""
    proprio = folder / f"proprio_stats/{task}/{episode}"
    proprio.mkdir(parents=True)
    with h5py.File(proprio / "proprio_stats.h5", "w") as stored:
        for key, values in states.items():
            stored.create_dataset(key, data=values)
        stored.create_dataset("timestamp", data=np.arange(len(frames), dtype=np.int64))
        stored.create_dataset("state/end/velocity", data=np.zeros((0,)))
        stored.create_dataset("action/effector/index", data=np.arange(3))
        stored.create_dataset("action/effector/position", data=np.zeros((3, 2)))
    write_video(folder / f"observations/{task}/{episode}/videos/head_color.mp4", frames, 30)
    info = folder / "task_info"
    info.mkdir(exist_ok=True)
    file = info / f"task_{task}.json"
    entries = json.loads(file.read_text()) if file.is_file() else []
    entries.append({"episode_id": episode, "task_id": task, "task_name": name, "label_info": {"action_config": []}})
    file.write_text(json.dumps(entries))
    if extrinsics is not None and lens is not None:
        camera = folder / f"parameters/{task}/{episode}/camera"
        camera.mkdir(parents=True)
        poses = [
            {"extrinsic": {"rotation_matrix": T[:3, :3].tolist(), "translation_vector": T[:3, 3].tolist()}}
            for T in extrinsics
        ]
        (camera / "head_extrinsic_params_aligned.json").write_text(json.dumps(poses))
        (camera / "head_intrinsic_params.json").write_text(json.dumps({"intrinsic": dict(lens)}))
