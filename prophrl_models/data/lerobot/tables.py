"""Arrow tables of a v3 folder: schemas with the notes that pandas and Hugging Face datasets look for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prophrl_models.data.lerobot.format import STATS_FILE, TASKS_FILE, Feature, LeRobotError

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How Hugging Face datasets stores an encoded picture."""


def frame_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Columns of a data file: everything but videos."""
    columns, notes = [], {}
    for key, feature in features.items():
        if feature.dtype == "video":
            continue
        column, note = _column(feature)
        columns.append(pa.field(key, column))
        notes[key] = note
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": notes}})})


def frame_table(
    schema: pa.Schema, numbers: Mapping[str, NDArray[Any]], pictures: Mapping[str, Sequence[bytes]]
) -> pa.Table:
    """Rows of one episode from numbers [T] or [T, C] and encoded pictures."""
    columns = []
    for entry in schema:
        if entry.name in pictures:
            rows = [{"bytes": encoded, "path": None} for encoded in pictures[entry.name]]
            columns.append(pa.array(rows, type=entry.type))
        elif pa.types.is_fixed_size_list(entry.type):
            values = np.ascontiguousarray(numbers[entry.name])
            flat = pa.array(values.reshape(-1), type=entry.type.value_type)
            columns.append(pa.FixedSizeListArray.from_arrays(flat, entry.type.list_size))
        else:
            columns.append(pa.array(numbers[entry.name].reshape(-1), type=entry.type))
    return pa.Table.from_arrays(columns, schema=schema)


def column_numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of numbers, or of lists of equal length, as an array [T] or [T, C]."""
    values = column.combine_chunks()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        if not len(values):
            return np.zeros((0, 0))
        flat: NDArray[Any] = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(values), -1)
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array


def write_tasks(folder: Path, tasks: Sequence[str]) -> None:
    """``meta/tasks.parquet``: a pandas frame whose index is the instruction, in the order of ``task_index``."""
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.3.3"}
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(pandas)})
    table = pa.Table.from_arrays([pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.string())], schema=schema)
    pq.write_table(table, folder / TASKS_FILE)


def read_tasks(folder: Path) -> tuple[str, ...]:
    """Instructions in the order of ``task_index``.

    Raises:
        LeRobotError: absent, or without the columns.
    """
    table = read_parquet(folder / TASKS_FILE)
    names = [name for name in ("task", "__index_level_0__") if name in table.column_names]
    if not names or "task_index" not in table.column_names:
        raise LeRobotError(f"{folder / TASKS_FILE} has columns {table.column_names}, expected task_index and task")
    indices = table.column("task_index").to_pylist()
    if sorted(indices) != list(range(len(indices))):
        raise LeRobotError(f"{folder / TASKS_FILE} numbers its tasks {indices}, expected 0..{len(indices) - 1}")
    by_index = dict(zip(indices, table.column(names[0]).to_pylist(), strict=True))
    return tuple(str(by_index[i]) for i in range(len(by_index)))


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole parquet file.

    Raises:
        LeRobotError: absent or damaged.
    """
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise LeRobotError(f"{path} cannot be read ({error}); fetch or export the dataset again") from error


def read_stats(folder: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """``meta/stats.json`` as arrays by feature and statistic; empty when the dataset has none.

    Raises:
        LeRobotError: damaged.
    """
    file = folder / STATS_FILE
    if not file.is_file():
        return {}
    try:
        raw = json.loads(file.read_text())
        return {key: {name: np.asarray(v, dtype=np.float64) for name, v in stats.items()} for key, stats in raw.items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise LeRobotError(f"{file} is damaged ({error}); fetch or export the dataset again") from error


def _column(feature: Feature) -> tuple[pa.DataType, dict[str, Any]]:
    """Arrow type of a feature, and what Hugging Face datasets calls it."""
    if feature.dtype == "image":
        return IMAGE_TYPE, {"_type": "Image"}
    value = {"dtype": feature.dtype, "_type": "Value"}
    kind = pa.bool_() if feature.dtype == "bool" else pa.type_for_alias(feature.dtype)
    if feature.shape == (1,):
        return kind, value
    if len(feature.shape) != 1:
        raise LeRobotError(f"a feature of shape {feature.shape} is not written here; flatten it")
    return pa.list_(kind, feature.shape[0]), {"feature": value, "length": feature.shape[0], "_type": "List"}
