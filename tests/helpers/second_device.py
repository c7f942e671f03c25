"""A second device for tests: its tensors live on the CPU, but torch treats them as another card's.

On a machine without a GPU nothing says that a tensor was left behind on the CPU: everything lies there. Inside
``second_device()`` the device ``second_card`` exists. It computes what the CPU computes, but for rounding, and refuses
what a CUDA device refuses: operands of two devices (numbers of no dimension and indices excepted), numpy on its
tensors, and the CPU's generators.

It is built on torch's support for devices written in Python. What it cannot show: kernels a GPU lacks, reduced
precision, graphs, streams, and branches that ask for "cuda" by name. An error inside a backward pass ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "second_card"
CPU = torch.device("cpu")
ATEN = torch.ops.aten
TAKES_INDICES = {
    ATEN.index.Tensor,
    ATEN.index_put.default,
    ATEN.index_put_.default,
    ATEN._index_put_impl_.default,
}
CHANGES_SHAPE = {
    ATEN.resize_.default,
    ATEN.squeeze_.default,
    ATEN.t_.default,
    ATEN.transpose_.default,
    ATEN.unsqueeze_.default,
}


class WrongDevice(RuntimeError):
    """Something a CUDA device would have refused as well."""


class OnSecond(Tensor):
    """A tensor of the second device; ``raw`` [same shape] is where its numbers really lie."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> OnSecond:
        made: OnSecond = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnSecond({self.raw!r})"

    def tolist(self) -> Any:
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise WrongDevice("numpy() of a tensor on the second device: call .cpu() first")

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Module(_DummyBackendModule):
    """What ``torch.second_card`` offers to autocast and checkpointing."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        torch.set_rng_state(state)

    def device(self, index: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def synchronize(self, device: Any = None) -> None:
        """There is nothing to wait for."""


def _is_second(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse operands that lie on the CPU."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if func in TAKES_INDICES:
        if not isinstance(args[0], OnSecond):
            raise WrongDevice(f"{func}: a tensor on the CPU with an index on the second device")
        tensors = [args[0], *args[2:3]]
    left_behind = [tuple(t.shape) for t in tensors if not isinstance(t, OnSecond) and t.dim() > 0]
    if left_behind:
        raise WrongDevice(f"{func}: tensors {left_behind} lie on the CPU, the others on the second device")


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, on the raw tensors."""
    if func in CHANGES_SHAPE and isinstance(args[0], OnSecond):
        raise RuntimeError(f"{func}: tests/helpers/second_device.py does not follow changes of shape in place")
    has_second = any(isinstance(leaf, OnSecond) for leaf in tree_leaves((args, kwargs)))
    goes_to_second = _is_second(kwargs["device"]) if kwargs.get("device") is not None else has_second
    generator = kwargs.get("generator")
    if generator is not None and goes_to_second != (generator._cdata in _second_generators):
        raise WrongDevice(f"{func}: the generator and the tensor are of different devices")
    if func is ATEN.copy_.default:
        goes_to_second = isinstance(args[0], OnSecond)
    elif func is ATEN._to_copy.default:
        pass
    elif func.overloadpacket is ATEN.to:  # met whole in inference mode
        named = [a.device if isinstance(a, Tensor) else a for a in args[1:] if isinstance(a, (Tensor, torch.device))]
        goes_to_second = _is_second(named[0]) if named else goes_to_second
    elif has_second or goes_to_second:
        _check(func, args, kwargs)

    owners: dict[int, OnSecond] = {}

    def lowered(leaf: Any) -> Any:
        if isinstance(leaf, OnSecond):
            owners[id(leaf.raw)] = leaf
            return leaf.raw
        return CPU if isinstance(leaf, torch.device) and leaf.type == NAME else leaf

    def raised(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return owners[id(leaf)] if id(leaf) in owners else OnSecond(leaf)

    args, kwargs = tree_map(lowered, (tuple(args), dict(kwargs)))
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    result = func(*args, **kwargs)
    return tree_map(raised, result) if goes_to_second else result


class _Operations(TorchDispatchMode):
    """Operations none of whose operands is there yet: creation on the device, and copies to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """``torch.tensor([...], device="second")``: torch fills it where no Python is called, so it is copied over."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_second(kwargs.get("device")):
            device = kwargs.pop("device")
            args, kwargs = tree_map(lambda x: x.raw.tolist() if isinstance(x, OnSecond) else x, (args, kwargs))
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], OnSecond) and "device" not in kwargs:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(args[0].device)
        return func(*args, **kwargs)


_second_generators: dict[int, torch.Generator] = {}
"""Generators made for the second device by their address; kept, so that no address is used again."""


class _OfSecond(torch.Generator):
    """The CPU's generator by another name."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(NAME, 0)

    def manual_seed(self, seed: int) -> torch.Generator:
        super().manual_seed(seed)
        return self


class _Generator(torch.Generator):
    """Stands for ``torch.Generator``, in annotations too; makes the CPU's and remembers which were asked for here."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        if not _is_second(device):
            return _CpuGenerator(device)
        made = _OfSecond()
        _second_generators[made._cdata] = made
        return made


_CpuGenerator = torch.Generator


@contextmanager
def second_device() -> Iterator[torch.device]:
    """The device ``second_card`` exists inside; yields it."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # Autograd made its threads, one a device, at its first use in this process: this device may have come later.
    threads = torch.autograd.set_multithreading_enabled(False)
    # Tensors of this kind do not know inference mode, which differs from no_grad in speed alone.
    patches = patch("torch.Generator", _Generator), patch("torch.inference_mode", lambda mode=True: torch.no_grad())
    with threads, _Operations(), _Literals(), patches[0], patches[1]:
        yield torch.device(NAME, 0)
    _second_generators.clear()
