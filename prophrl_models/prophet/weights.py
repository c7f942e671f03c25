"""Published weights for Prophet's network: three layouts, one checked way in.

diffusers   Cosmos-Predict2-*-Video2World, ``transformer`` folder: names are those of ``network.Prophet`` already
NVIDIA      .pt of the same network ("net." before every name), also the action-conditioned one
Prophet     .pt of the released world models (LogosRoboticsGroup): NVIDIA's names, action frames and history besides

Loading is exact: every stored tensor has a place of its shape, every place of the base network is filled, and a
stream is filled as a whole or, where the file does not know it, left as it was made.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prophrl_models.prophet.config import MemoryConfig, NetworkConfig
from prophrl_models.prophet.network import GATE_SPEED, MEMORY_GATE, NEW_MODULES, Prophet

OFFICIAL = NetworkConfig(scalar_actions=False, action_frames="none", memory=None)
"""Cosmos-Predict2-2B-Video2World as published."""

NVIDIA_ACTIONS = replace(OFFICIAL, scalar_actions=True, actions=12, action_dim=7)
"""NVIDIA's action-conditioned sample: 12 actions of one arm."""

RELEASED = NetworkConfig(action_frames="pooled", memory=MemoryConfig(order="oldest_fine"))
"""The released Prophet: both action streams, history with the oldest frame pooled least, no gate."""

STREAMS = tuple(module.removesuffix(".") for module in NEW_MODULES)
"""What Prophet has beside the base network: a file holds each as a whole, or not at all."""

_TOP = {
    "x_embedder.proj.1": "patch_embed.proj",
    "t_embedder.1": "time_embed.t_embedder",
    "t_embedding_norm": "time_embed.norm",
    "final_layer.adaln_modulation.1": "norm_out.linear_1",
    "final_layer.adaln_modulation.2": "norm_out.linear_2",
    "final_layer.linear": "proj_out",
    "action_embedder_B_D": "scalar_actions.to_time",
    "action_embedder_B_3D": "scalar_actions.to_adaln",
    "action_latent_cond.proj_in": "action_frames.proj_in",
    "action_latent_cond.dw_spatial": "action_frames.depthwise",
    "action_latent_cond.pw_spatial": "action_frames.pointwise",
    "action_latent_cond.to_D.0": "action_frames.to_time.norm",
    "action_latent_cond.to_D.1": "action_frames.to_time.linear",
    "action_latent_cond.to_3D.0": "action_frames.to_adaln.norm",
    "action_latent_cond.to_3D.1": "action_frames.to_adaln.linear",
    "framepack_mem.proj.0.1": "memory.levels.0",
    "framepack_mem.proj.1.1": "memory.levels.1",
    "framepack_mem.proj.2.1": "memory.levels.2",
    "mem_to_k": "memory.to_k",
    "mem_to_v": "memory.to_v",
}
_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"} | {
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
_BLOCK = {
    **{f"self_attn.{theirs}": f"attn1.{ours}" for theirs, ours in _ATTENTION.items()},
    **{f"cross_attn.{theirs}": f"attn2.{ours}" for theirs, ours in _ATTENTION.items()},
    **{
        f"adaln_modulation_{part}.{layer}": f"norm{number}.linear_{layer}"
        for number, part in enumerate(("self_attn", "cross_attn", "mlp"), start=1)
        for layer in (1, 2)
    },
    "mlp.layer1": "ff.net.0.proj",
    "mlp.layer2": "ff.net.2",
}
_BOOKKEEPING = re.compile(r"_extra_state$|^accum_|^pos_embedder\.")
"""State of NVIDIA's training code and tables that are computed: not weights."""


class WeightsError(ValueError):
    """Stored weights are damaged or belong to another network."""


@dataclass(frozen=True)
class Loaded:
    """What a file gave.

    Attributes:
        loaded: parameters that were filled.
        fresh: streams that the file does not know, or that were not wanted from it; they stay as they were made.
        left_out: stored tensors that are not used: cross-attention of a network without text, unwanted streams.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    left_out: tuple[str, ...]


def to_our_names(raw: Mapping[str, Tensor], *, ema: bool = False) -> dict[str, Tensor]:
    """Stored tensors under the names of ``network.Prophet``, 1 x 1 x 1 convolutions of the memory as matrices.

    Args:
        raw: as stored, in any of the three layouts.
        ema: take the averaged weights ("net_ema.") of a training checkpoint that holds both.

    Raises:
        WeightsError: there are no averaged weights, or a name belongs to none of the layouts.
    """
    if any(name.startswith("transformer_blocks.") for name in raw):
        return dict(raw)
    prefix = "net_ema." if ema else "net."
    if any(name.startswith(("net.", "net_ema.")) for name in raw):
        raw = {name.removeprefix(prefix): value for name, value in raw.items() if name.startswith(prefix)}
    elif ema:
        raw = {}
    if not raw:
        raise WeightsError(f"the file holds no tensor under {prefix!r}; choose ema={not ema}")
    # The released network learned action layers of its own beside NVIDIA's, which it never runs.
    renewed = any(name.startswith("action_embedder_B_D_agi.") for name in raw)
    state: dict[str, Tensor] = {}
    unknown = []
    for name, value in raw.items():
        if _BOOKKEEPING.search(name) or (renewed and re.match(r"action_embedder_B_3?D\.", name)):
            continue
        ours = _our_name(name.replace("_agi.", ".", 1) if renewed else name)
        if ours is None:
            unknown.append(name)
        else:
            state[ours] = value.flatten(1) if re.fullmatch(r"memory\.levels\.\d+\.weight", ours) else value
    if unknown:
        raise WeightsError(f"{len(unknown)} stored names belong to no known layout, among them {unknown[:5]}")
    return state


def _our_name(name: str) -> str | None:
    block = re.match(r"blocks\.(\d+)\.", name)
    prefix, rest = (f"transformer_blocks.{block[1]}.", name[block.end() :]) if block else ("", name)
    module, _, leaf = rest.rpartition(".")
    table = _BLOCK if block else _TOP
    # Some modules are named as a whole, others by a module inside them (t_embedder.1.linear_1).
    for depth in range(module.count(".") + 1):
        head, inner = module.rsplit(".", depth)[0], module.split(".")[module.count(".") + 1 - depth :]
        if head in table:
            return prefix + ".".join([table[head], *inner, leaf])
    return None


def match(
    network: Prophet, raw: Mapping[str, Tensor], *, ema: bool = False, fresh: Collection[str] = ()
) -> tuple[dict[str, Tensor], Loaded]:
    """Stored tensors by the network's parameter names, checked; runs on meta tensors too.

    Args:
        fresh: of ``STREAMS``, those not to be taken from the file: NVIDIA's actions are another robot's, for example.

    Raises:
        WeightsError: something does not fit.
    """
    if unknown := sorted(set(fresh) - set(STREAMS)):
        raise WeightsError(f"no stream is called {', '.join(unknown)}; choose of {', '.join(STREAMS)}")
    state = to_our_names(raw, ema=ema)
    wanted = dict(network.named_parameters())
    unwanted = tuple(f"{stream}." for stream in fresh)
    without_text = not network.config.text
    left_out = {n for n in state if n.startswith(unwanted) or (without_text and (".attn2." in n or ".norm2." in n))}
    state = {name: value for name, value in state.items() if name not in left_out}
    if unexpected := sorted(set(state) - set(wanted)):
        raise WeightsError(
            f"the file has {len(unexpected)} tensors the network has no place for, among them {unexpected[:5]}; "
            "compare its streams with scalar_actions, action_frames and memory of the configuration"
        )
    missing = set(wanted) - set(state)
    untouched = []
    for stream in STREAMS:
        names = {name for name in wanted if name.startswith(f"{stream}.")}
        if names and names <= missing:
            untouched.append(stream)
            missing -= names
    missing = {name for name in missing if not name.endswith(MEMORY_GATE)}  # no file has gates but our own
    if missing:
        raise WeightsError(f"the file lacks {len(missing)} tensors, among them {sorted(missing)[:5]}")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            stream = next((stream for stream in STREAMS if name.startswith(f"{stream}.")), "")
            advice = f"; to train that stream anew, leave it out (`--fresh {stream}`, or `fresh`)" if stream else ""
            raise WeightsError(
                f"{name} is {list(value.shape)} in the file, {list(wanted[name].shape)} in the network{advice}"
            )
    return state, Loaded(tuple(sorted(state)), tuple(untouched), tuple(sorted(left_out)))


def load_into(network: Prophet, raw: Mapping[str, Tensor], *, ema: bool = False, fresh: Collection[str] = ()) -> Loaded:
    """Fill a network; its types and devices stay. A gated memory that comes from a file starts fully open.

    Args:
        fresh: as ``match`` takes it.

    Raises:
        WeightsError: something does not fit, or the network is on the meta device; nothing was changed.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        raise WeightsError("the network has no storage; make it on a device, so that its new streams have their values")
    state, loaded = match(network, raw, ema=ema, fresh=fresh)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in state:
                parameter.copy_(state[name])
            elif name.endswith(MEMORY_GATE) and "memory" not in loaded.fresh:
                parameter.fill_(1.0 / GATE_SPEED)
    return loaded


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, of a folder of them (diffusers, with or without index) or of a .pt file.

    A .pt file is read with torch's restricted loader: it can hold tensors, and nothing that runs.

    Raises:
        WeightsError: it is missing, damaged or of another kind.
    """
    path = Path(path)
    try:
        if path.is_dir():
            index = sorted(path.glob("*.safetensors.index.json"))
            if index:
                listed = set(json.loads(index[0].read_text())["weight_map"].values())
                files = sorted(path / Path(name).name for name in listed)
            else:
                files = sorted(path.glob("*.safetensors"))
            if not files:
                raise WeightsError(f"{path} holds no .safetensors file; give the folder of the transformer")
            return {name: value for file in files for name, value in load_file(file).items()}
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix in (".pt", ".pth"):
            with torch.serialization.safe_globals([io.BytesIO]):  # an empty state of NVIDIA's norm layers
                stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            if not isinstance(stored, Mapping):
                raise WeightsError(f"{path} holds a {type(stored).__name__}, not named tensors")
            return {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors and is not opened, because it could run code; save its tensors alone"
        ) from error
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} holds no usable weights: {error}") from error
    raise WeightsError(f"{path} is no .safetensors file, .pt file or folder of .safetensors files")
