"""Readers of published weights: what is there comes through, what is damaged or does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prophrl_models.policies.official import (
    INDEX,
    LoadReport,
    OfficialWeightsError,
    load_tensors,
    part_file,
    read_part,
    read_safetensors,
)
from tests.helpers.prismatic_layout import write_part, write_shards

TENSORS = {f"layer.{i}": torch.full((2, 3), float(i)) for i in range(5)}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.b = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)


def halves(name: str, tensor: Tensor) -> list[tuple[str, Tensor]] | None:
    if name == "both":
        return [(f"{x}.bias", part) for x, part in zip("ab", tensor.chunk(2), strict=True)]
    return {"w": [("a.weight", tensor)], "v": [("b.weight", tensor)], "old": []}.get(name)


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_of_all_shards_is_read(tmp_path: Path, shards: int) -> None:
    write_shards(tmp_path, TENSORS, shards)
    read = dict(read_safetensors(tmp_path))
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OfficialWeightsError, match=r"neither model\.safetensors nor"):
        list(read_safetensors(tmp_path))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, 2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(OfficialWeightsError, match="model-00002-of-00002"):
        list(read_safetensors(tmp_path))


def test_a_shard_that_lacks_a_listed_tensor_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, 2)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["layer.9"] = "model-00001-of-00002.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(OfficialWeightsError, match=r"layer\.9"):
        list(read_safetensors(tmp_path))


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, 1)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OfficialWeightsError, match="damaged"):
        list(read_safetensors(tmp_path))


@pytest.mark.parametrize("content", ["{", '{"metadata": {}}', '{"weight_map": {"x": "../outside.safetensors"}}'])
def test_an_index_that_cannot_be_used_or_leaves_the_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(OfficialWeightsError, match=INDEX):
        list(read_safetensors(tmp_path))


@pytest.mark.parametrize("module", [True, False])
def test_parts_lose_the_prefix_of_data_parallel_training(tmp_path: Path, module: bool) -> None:
    write_part(tmp_path, "action_head--50000_checkpoint.pt", TENSORS, module)
    path = part_file(tmp_path, "action_head")
    assert path is not None
    read = dict(read_part(path))
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)
    assert part_file(tmp_path, "proprio_projector") is None


def test_a_part_without_a_step_number_is_found(tmp_path: Path) -> None:
    write_part(tmp_path, "action_head--checkpoint.pt", TENSORS)
    assert part_file(tmp_path, "action_head") == tmp_path / "action_head--checkpoint.pt"


def test_parts_of_two_training_steps_are_refused(tmp_path: Path) -> None:
    for step in (1, 2):
        write_part(tmp_path, f"action_head--{step}_checkpoint.pt", TENSORS)
    with pytest.raises(OfficialWeightsError, match="action_head--1_checkpoint"):
        part_file(tmp_path, "action_head")


class Surprise:
    """Unpickling one would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_part_is_not_run(tmp_path: Path) -> None:
    torch.save({"x": Surprise(tmp_path / "ran")}, tmp_path / "action_head--1_checkpoint.pt")
    with pytest.raises(OfficialWeightsError, match="plain file of tensors"):
        list(read_part(tmp_path / "action_head--1_checkpoint.pt"))
    assert not (tmp_path / "ran").exists()


def test_a_part_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"optimizer": {"lr": 0.1}}, tmp_path / "x--1_checkpoint.pt")
    with pytest.raises(OfficialWeightsError, match="mapping of names to tensors"):
        list(read_part(tmp_path / "x--1_checkpoint.pt"))


def test_translated_tensors_fill_the_module_and_the_report_is_clean() -> None:
    module = Pair()
    pairs = {"w": torch.ones(2, 3), "v": torch.zeros(2, 2), "both": torch.arange(4.0), "old": torch.zeros(1)}
    report = load_tensors(module, pairs.items(), halves, new=("head.*",))
    report.raise_for_gaps()
    assert report == LoadReport(4, (), (), ("head.weight", "head.bias"), ("old",))
    assert torch.equal(module.a.weight, torch.ones(2, 3))
    assert torch.equal(module.b.bias, torch.tensor([2.0, 3.0]))


def test_gaps_of_every_sort_are_named_and_refused() -> None:
    pairs = [("w", torch.ones(2, 4)), ("v", torch.ones(2, 2)), ("v", torch.ones(2, 2)), ("strange", torch.ones(1))]
    report = load_tensors(Pair(), pairs, halves, new=("head.*",))
    assert report.missing == ("a.weight", "a.bias", "b.bias")
    assert "w (2, 4)" in report.unexpected[0] and "(2, 3)" in report.unexpected[0]
    assert "second tensor" in report.unexpected[1] and report.unexpected[2] == "strange"
    with pytest.raises(OfficialWeightsError, match=r"3 missing \(a\.weight.*3 unexpected"):
        report.raise_for_gaps()


def test_a_module_without_memory_is_only_compared_unless_it_may_take_the_tensors() -> None:
    pairs = {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}
    with torch.device("meta"):
        module = Pair()
    report = load_tensors(module, pairs.items())
    assert report.loaded == 2 and module.a.weight.is_meta
    load_tensors(module.bfloat16(), pairs.items(), materialise=True)
    assert not module.a.weight.is_meta and module.a.weight.dtype is torch.bfloat16 and module.b.weight.is_meta
    assert isinstance(module.a.weight, nn.Parameter)
