"""Published weights into our modules: streaming readers, one loader for all key maps, and a report of every gap.

A published file holds names and shapes of somebody else's classes. A policy translates each tensor to its own names
(``Translate``) and says which of its parameters are new and which published tensors it has no use for. Everything else
must match one to one: what is left over is a gap, and ``LoadReport.raise_for_gaps`` refuses it.
"""

from __future__ import annotations

import fnmatch
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

Pairs = Iterable[tuple[str, Tensor]]
Translate = Callable[[str, Tensor], "list[tuple[str, Tensor]] | None"]
"""(published name, tensor) -> our (name, tensor) pairs; an empty list: documented as unused; None: unknown."""

OFFICIAL: dict[str, str] = {
    "pi05": "prophrl_models.policies.pi05",
    "vla_adapter": "prophrl_models.policies.vla_adapter",
    "openvla_oft": "prophrl_models.policies.openvla_oft",
}
"""Kinds of policies and the module whose ``from_official(folder, spec, **options)`` reads their published weights."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHOWN = 12


class OfficialWeightsError(ValueError):
    """Published weights that are not there or do not fit; the message names the files or tensors."""


@dataclass(frozen=True)
class LoadReport:
    """What became of published weights.

    Attributes:
        loaded: parameters and buffers of the policy that were filled.
        missing: names of the policy's that no published tensor filled, without those documented as new.
        unexpected: published names that fit nowhere (a wrong shape is spelled out), without those documented as unused.
        new: names of the policy's that the publication does not have by design; they keep their initial values.
        unused: published names that the policy drops by design.
    """

    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def raise_for_gaps(self) -> None:
        """Refuse a policy that is only partly what was published.

        Raises:
            OfficialWeightsError: something is missing or unexpected.
        """
        if self.missing or self.unexpected:
            raise OfficialWeightsError(
                f"the weights do not fit this policy: {len(self.missing)} missing ({_some(self.missing)}), "
                f"{len(self.unexpected)} unexpected ({_some(self.unexpected)}); check that the folder is of the same "
                "model and size as the architecture"
            )


@torch.no_grad()
def load_tensors(
    module: nn.Module,
    pairs: Pairs,
    translate: Translate | None = None,
    new: Sequence[str] = (),
    materialise: bool = False,
) -> LoadReport:
    """Copy published tensors into a module, one at a time, cast to the dtype and device that the module has.

    Where a parameter or the tensor is on the meta device only name and shape are checked, so that a map can be tried
    at full size without memory.

    Args:
        translate: published name and tensor to ours; names are the same when omitted.
        new: names, or shell patterns of names, that may stay unfilled.
        materialise: give parameters on the meta device the tensor itself, in the parameter's dtype; a model is then
            never twice in memory, and what stays unfilled stays without memory.
    """
    targets = module.state_dict(keep_vars=True)
    filled: set[str] = set()
    unexpected, unused = [], []
    for name, tensor in pairs:
        ours = [(name, tensor)] if translate is None else translate(name, tensor)
        if ours is None:
            unexpected.append(name)
            continue
        if not ours:
            unused.append(name)
        for target, value in ours:
            if target not in targets:
                unexpected.append(name if target == name else f"{name} (as {target})")
            elif targets[target].shape != value.shape:
                expected = tuple(targets[target].shape)
                unexpected.append(f"{name} {tuple(value.shape)}, {target} needs {expected}")
            elif target in filled:
                unexpected.append(f"{name} (a second tensor for {target})")
            else:
                if not targets[target].is_meta and not value.is_meta:
                    targets[target].copy_(value)
                elif materialise and not value.is_meta:
                    # A copy: the tensor may be part of a larger one (a third of qkv), or of a file mapped into memory.
                    _replace(module, target, value.to(targets[target].dtype, copy=True))
                filled.add(target)
    left = [name for name in targets if name not in filled]
    is_new = {name for name in left if any(fnmatch.fnmatchcase(name, pattern) for pattern in new)}
    return LoadReport(
        len(filled),
        tuple(name for name in left if name not in is_new),
        tuple(unexpected),
        tuple(name for name in left if name in is_new),
        tuple(unused),
    )


@contextmanager
def empty_weights() -> Iterator[None]:
    """Inside, modules are built without memory for their parameters (meta device) and without drawing random numbers
    for them, but with real buffers: to be filled by ``load_tensors(materialise=True)`` or
    ``load_state_dict(assign=True)``."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    with init_empty_weights(include_buffers=False):
        yield


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    setattr(owner, last, nn.Parameter(value) if last in owner._parameters else value)


def read_safetensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of ``model.safetensors`` or of the shards its index lists, one in memory at a time.

    Raises:
        OfficialWeightsError: neither file is there, a shard is missing or damaged, or a shard and the index disagree.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    listed: dict[str, str] | None = None
    if (folder / WEIGHTS).is_file():
        shards = [WEIGHTS]
    elif (folder / INDEX).is_file():
        listed = _weight_map(folder / INDEX)
        shards = sorted(set(listed.values()))
    else:
        raise OfficialWeightsError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; download the whole repository of the published model"
        )
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise OfficialWeightsError(f"{folder} lacks {_some(absent)}, which {INDEX} lists; download them too")
    for shard in shards:
        try:
            with safe_open(folder / shard, framework="pt") as file:
                names = set(file.keys())
                expected = names if listed is None else {name for name, where in listed.items() if where == shard}
                if names != expected:
                    raise OfficialWeightsError(
                        f"{folder / shard} and {INDEX} disagree about {_some(sorted(names ^ expected))}; download both "
                        "from one revision"
                    )
                for name in sorted(names):
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise OfficialWeightsError(f"{folder / shard} is damaged: {error}; download it again") from error


def part_file(folder: Path, part: str) -> Path | None:
    """The file ``<part>--<step>_checkpoint.pt`` of a folder, None when there is none.

    Raises:
        OfficialWeightsError: several, of different training steps.
    """
    files = sorted(Path(folder).glob(f"{part}--*checkpoint.pt"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise OfficialWeightsError(f"{folder} has several {part} files ({names}); keep the one of the wanted step")
    return files[0] if files else None


def read_part(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a ``.pt`` state dict; the "module." that data-parallel training puts in front is removed.

    Only tensors are unpickled: code in the file is refused, not run.

    Raises:
        OfficialWeightsError: not a flat state dict of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise OfficialWeightsError(f"{path} is not a plain file of tensors: {error}; download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise OfficialWeightsError(f"{path} must hold a mapping of names to tensors; is it an optimiser's file?")
    for name, tensor in state.items():
        yield str(name).removeprefix("module."), tensor


def _weight_map(index: Path) -> dict[str, str]:
    try:
        raw = json.loads(index.read_text())
        weight_map = {str(name): str(shard) for name, shard in raw["weight_map"].items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise OfficialWeightsError(f"{index} has no usable weight_map: {error!r}; download it again") from error
    outside = [shard for shard in weight_map.values() if Path(shard).name != shard]
    if outside:
        raise OfficialWeightsError(f"{index} lists files outside its folder ({_some(outside)}); do not trust it")
    return weight_map


def _some(names: Sequence[str]) -> str:
    more = f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"
