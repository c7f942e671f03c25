"""Normalisation statistics that other projects publish with their weights, with their own formulas.

    openpi        norm_stats.json          norm_stats.{state,actions}.{mean,std,q01,q99}
    lerobot       meta/stats.json          {observation.state,action}.{mean,std,min,max,q01,q99,count}
    OpenVLA, OFT, dataset_statistics.json, or norm_stats in the model's config.json:
    VLA-Adapter   {dataset}.{action,proprio}.{mean,std,min,max,q01,q99,mask}

None of these files says which end of the gripper's range is open, and a policy run with the wrong end opens where it
should grasp. Whoever reads one must say it (``GripperPolarity``); there is no default.

Every formula is affine, so one object holds them all: normalised = (raw - offset) / scale. Sources, read for the
formulas: Physical-Intelligence/openpi (transforms), huggingface/lerobot (normalize_processor), openvla/openvla-oft and
OpenHelix-Team/VLA-Adapter (rlds data_utils, modeling_prismatic).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

OPENPI_EPSILON = 1e-6
OPENVLA_EPSILON = LEROBOT_EPSILON = 1e-8
FIELDS = ("mean", "std", "min", "max", "q01", "q99")


class ForeignStatisticsError(ValueError):
    """A file that is not what it should be, or that was read without saying what it does not say itself."""


class GripperPolarity(Enum):
    """What the raw gripper number of a dataset means: (raw value when closed, raw value when open)."""

    OPEN_IS_ONE = (0.0, 1.0)
    """0 closed, 1 open, as in our own data: all RLDS-aligned datasets of OpenVLA, also its LIBERO ones."""
    CLOSED_IS_ONE = (1.0, 0.0)
    """1 closed, 0 open: DROID's gripper position, and openpi's DROID policies."""
    OPEN_IS_PLUS_ONE = (-1.0, 1.0)
    """-1 closed, 1 open."""
    CLOSED_IS_PLUS_ONE = (1.0, -1.0)
    """1 closed, -1 open: actions as LIBERO's simulator takes them, and openpi's LIBERO policies."""

    def to_opening(self, raw: ArrayLike) -> Array:
        """Raw numbers as openings, 0 closed .. 1 open."""
        closed, opened = self.value
        return (np.asarray(raw, dtype=np.float64) - closed) / (opened - closed)

    def from_opening(self, opening: ArrayLike) -> Array:
        """Inverse of ``to_opening``."""
        closed, opened = self.value
        return closed + np.asarray(opening, dtype=np.float64) * (opened - closed)


@dataclass(frozen=True)
class ForeignFeature:
    """How a project normalises one feature of C channels, in its raw units.

    Attributes:
        offset_C, scale_C: normalised = (raw - offset) / scale.
        restore_scale_C: raw = normalised * restore_scale + offset; lerobot's mean/std rule leaves its epsilon out here.
        clips_C: channels whose normalised values are limited to [-1, 1] (training data only).
        unused_C: channels that never vary; they are normalised to 0.
        gripper: meaning of the channel ``gripper_channel``; None for a feature without a commanded gripper.
        statistics: the file's own numbers by name, each [C].
    """

    offset_C: Array
    scale_C: Array
    restore_scale_C: Array
    clips_C: NDArray[np.bool_]
    unused_C: NDArray[np.bool_]
    gripper: GripperPolarity | None
    gripper_channel: int
    statistics: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.offset_C)

    def normalise(self, raw: ArrayLike) -> Array:
        """Raw values [..., C] as the network was given them in training."""
        x = (self._checked(raw) - self.offset_C) / self.scale_C
        x = np.where(self.clips_C, np.clip(x, -1.0, 1.0), x)
        return np.where(self.unused_C, 0.0, x)

    def restore(self, normalised: ArrayLike) -> Array:
        """The network's values [..., C] in raw units."""
        return self._checked(normalised) * self.restore_scale_C + self.offset_C

    def to_opening(self, raw: ArrayLike) -> Array:
        """Raw values [..., C] with the gripper as an opening, 0 closed .. 1 open.

        Raises:
            ForeignStatisticsError: the feature has no commanded gripper.
        """
        x = self._checked(raw).copy()
        x[..., self.gripper_channel] = self._polarity().to_opening(x[..., self.gripper_channel])
        return x

    def from_opening(self, values: ArrayLike) -> Array:
        """Inverse of ``to_opening``."""
        x = self._checked(values).copy()
        x[..., self.gripper_channel] = self._polarity().from_opening(x[..., self.gripper_channel])
        return x

    def opening_scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(offset, scale) of ``restore`` followed by ``to_opening``: network values to openings in one affine step.

        The gripper's scale is negative where the source's closed end is the larger number.
        """
        closed, opened = self._polarity().value
        offset, scale, k = self.offset_C.copy(), self.restore_scale_C.copy(), self.gripper_channel
        offset[k] = (offset[k] - closed) / (opened - closed)
        scale[k] /= opened - closed
        return tuple(map(float, offset)), tuple(map(float, scale))

    def _polarity(self) -> GripperPolarity:
        if self.gripper is None:
            raise ForeignStatisticsError("this feature has no commanded gripper; only actions have one")
        return self.gripper

    def _checked(self, values: ArrayLike) -> Array:
        x = np.asarray(values, dtype=np.float64)
        if x.ndim == 0 or x.shape[-1] != len(self):
            raise ForeignStatisticsError(f"these statistics are of {len(self)} channels, got an array {x.shape}")
        return x


@dataclass(frozen=True)
class ForeignNormalisation:
    """Both features of one file. ``state`` is None where the file has none."""

    action: ForeignFeature
    state: ForeignFeature | None
    source: str


def read_openpi(
    path: str | Path,
    gripper: GripperPolarity | None,
    *,
    quantiles: bool,
    action_dim: int | None = None,
    state_dim: int | None = None,
) -> ForeignNormalisation:
    """openpi's ``norm_stats.json`` (a file, or the folder it lies in).

    Args:
        gripper: meaning of the actions' last channel.
        quantiles: q01/q99 (pi0.5, pi0-FAST) or mean/std (pi0); the file does not say which its policy uses.
        action_dim, state_dim: channels the robot has; files of base models are padded. All when omitted.

    Raises:
        ForeignStatisticsError: unusable file, or no polarity given.
    """
    _told(gripper)
    path = _file(path, "norm_stats.json")
    body = _mapping(_json(path).get("norm_stats"), f"norm_stats in {path}")

    def feature(name: str, polarity: GripperPolarity | None, dim: int | None) -> ForeignFeature:
        values = _statistics(body.get(name), f"norm_stats.{name} in {path}", dim)
        if quantiles:
            low, high = _two(values, "q01", "q99", path)
            return _range(values, low, high - low + OPENPI_EPSILON, polarity)
        mean, std = _two(values, "mean", "std", path)
        return _feature(values, mean, std + OPENPI_EPSILON, polarity)

    state = feature("state", None, state_dim) if "state" in body else None
    return ForeignNormalisation(feature("actions", gripper, action_dim), state, "openpi")


LEROBOT_MODES = ("mean_std", "min_max", "quantiles", "identity")


def read_lerobot(
    path: str | Path, gripper: GripperPolarity | None, *, action_mode: str, state_mode: str
) -> ForeignNormalisation:
    """lerobot's ``meta/stats.json`` (a file, or the dataset's folder).

    Args:
        gripper: meaning of the actions' last channel.
        action_mode, state_mode: the policy's ``normalization_mapping``, one of ``LEROBOT_MODES``.

    Raises:
        ForeignStatisticsError: unusable file, unknown mode, or no polarity given.
    """
    _told(gripper)
    path = _file(path, "meta/stats.json")
    body = _json(path)

    def feature(name: str, mode: str, polarity: GripperPolarity | None) -> ForeignFeature:
        values = _statistics(body.get(name), f"{name} in {path}")
        if mode == "identity":
            width = len(next(iter(values.values())))
            return _feature(values, np.zeros(width), np.ones(width), polarity)
        if mode == "mean_std":
            mean, std = _two(values, "mean", "std", path)
            return _feature(values, mean, std + LEROBOT_EPSILON, polarity, restore_scale=std)
        if mode not in LEROBOT_MODES:
            raise ForeignStatisticsError(f"unknown mode {mode!r}; choose one of {', '.join(LEROBOT_MODES)}")
        low, high = _two(values, *(("min", "max") if mode == "min_max" else ("q01", "q99")), path)
        span = np.where(high == low, LEROBOT_EPSILON, high - low)
        return _range(values, low, span, polarity)

    state = feature("observation.state", state_mode, None) if "observation.state" in body else None
    return ForeignNormalisation(feature("action", action_mode, gripper), state, "lerobot")


OPENVLA_MODES = ("bounds_q99", "bounds", "normal")


def read_openvla(
    path: str | Path, gripper: GripperPolarity | None, *, dataset: str | None = None, mode: str = "bounds_q99"
) -> ForeignNormalisation:
    """``dataset_statistics.json`` of OpenVLA, OpenVLA-OFT or VLA-Adapter, or ``norm_stats`` in their ``config.json``.

    Args:
        path: one of these files, or the checkpoint's folder.
        gripper: meaning of the actions' last channel.
        dataset: the key that these projects call ``unnorm_key``; may be omitted when there is only one.
        mode: their normalisation type, one of ``OPENVLA_MODES``; all published LIBERO and BRIDGE weights use the first.

    Raises:
        ForeignStatisticsError: unusable file, unknown dataset or mode, or no polarity given.
    """
    _told(gripper)
    if mode not in OPENVLA_MODES:
        raise ForeignStatisticsError(f"unknown mode {mode!r}; choose one of {', '.join(OPENVLA_MODES)}")
    path = _file(path, "dataset_statistics.json", "config.json")
    whole = _json(path)
    body = _mapping(whole.get("norm_stats", whole), f"norm_stats in {path}")
    if dataset is None and len(body) == 1:
        dataset = next(iter(body))
    if dataset is None or dataset not in body:
        raise ForeignStatisticsError(f"{path} has no dataset {dataset!r}; choose one of {', '.join(sorted(body))}")
    chosen = _mapping(body[dataset], f"{dataset} in {path}")

    def feature(name: str, polarity: GripperPolarity | None) -> ForeignFeature:
        where = f"{dataset}.{name} in {path}"
        values = _statistics(chosen.get(name), where)
        mask = _mask(_mapping(chosen[name], where).get("mask"), len(next(iter(values.values()))), where)
        if mode == "normal":
            mean, std = _two(values, "mean", "std", path)
            return _feature(values, np.where(mask, mean, 0.0), np.where(mask, std + OPENVLA_EPSILON, 1.0), polarity)
        low, high = _two(values, *(("q01", "q99") if mode == "bounds_q99" else ("min", "max")), path)
        half = (high - low + OPENVLA_EPSILON) / 2.0
        offset, scale = np.where(mask, low + half, 0.0), np.where(mask, half, 1.0)
        constant = values["min"] == values["max"] if {"min", "max"} <= set(values) else np.zeros(len(mask), dtype=bool)
        return _feature(values, offset, scale, polarity, clips=mask, unused=constant)

    state = feature("proprio", None) if "proprio" in chosen else None
    return ForeignNormalisation(feature("action", gripper), state, f"openvla:{dataset}")


def _told(gripper: GripperPolarity | None) -> None:
    if not isinstance(gripper, GripperPolarity):
        choices = ", ".join(polarity.name for polarity in GripperPolarity)
        raise ForeignStatisticsError(
            f"say which end of the gripper is open: the file does not. Choose one of {choices} "
            "(each one's documentation names the datasets that use it); replay a logged episode to be sure"
        )


def _range(values: Mapping[str, Array], low: Array, span: Array, polarity: GripperPolarity | None) -> ForeignFeature:
    """2 (x - low) / span - 1."""
    return _feature(values, low + span / 2.0, span / 2.0, polarity)


def _feature(
    values: Mapping[str, Array],
    offset: Array,
    scale: Array,
    polarity: GripperPolarity | None,
    *,
    restore_scale: Array | None = None,
    clips: NDArray[np.bool_] | None = None,
    unused: NDArray[np.bool_] | None = None,
) -> ForeignFeature:
    nowhere = np.zeros(len(offset), dtype=bool)
    return ForeignFeature(
        offset,
        scale,
        scale if restore_scale is None else restore_scale,
        nowhere if clips is None else clips,
        nowhere if unused is None else unused,
        polarity,
        len(offset) - 1,
        values,
    )


def _file(path: str | Path, *names: str) -> Path:
    path = Path(path).expanduser()
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise ForeignStatisticsError(f"{path} is no statistics file and holds no {' or '.join(names)}")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ForeignStatisticsError(f"{path} is not JSON: {error}; download it again") from error
    return dict(_mapping(value, str(path)))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ForeignStatisticsError(f"{where} must be a JSON object, got {type(value).__name__}")
    return value


def _statistics(raw: Any, where: str, dim: int | None = None) -> dict[str, Array]:
    """The numbers of one feature, each [C]; unknown entries are left out."""
    given = {name: value for name, value in _mapping(raw, where).items() if name in FIELDS and value is not None}
    try:
        values = {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise ForeignStatisticsError(f"{where} holds something that is not a list of numbers: {error}") from error
    shapes = {name: value.shape for name, value in values.items()}
    if not values or any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise ForeignStatisticsError(f"{where} needs lists of one length for some of {', '.join(FIELDS)}, got {shapes}")
    bad = [name for name, value in values.items() if not np.isfinite(value).all()]
    if bad:
        raise ForeignStatisticsError(f"{where} has numbers that are not finite in {', '.join(bad)}")
    width = len(next(iter(values.values())))
    if dim is not None and not 1 <= dim <= width:
        raise ForeignStatisticsError(f"{where} has {width} channels, {dim} were asked for")
    for low, high in (("q01", "q99"), ("min", "max")):
        if low in values and high in values and (values[low] > values[high]).any():
            raise ForeignStatisticsError(f"{where} has {low} above {high}; was it edited?")
    return {name: value[:dim] for name, value in values.items()}


def _two(values: Mapping[str, Array], first: str, second: str, path: Path) -> tuple[Array, Array]:
    if first not in values or second not in values:
        raise ForeignStatisticsError(f"{path} lacks {first} or {second}, it has {', '.join(values)}; use another mode")
    return values[first], values[second]


def _mask(raw: Sequence[bool] | None, width: int, where: str) -> NDArray[np.bool_]:
    """Channels that are normalised; all when the file has no mask, as its authors' code does."""
    if raw is None:
        return np.ones(width, dtype=bool)
    if not isinstance(raw, list) or len(raw) != width or not all(isinstance(entry, bool) for entry in raw):
        raise ForeignStatisticsError(f"the mask of {where} must hold {width} times true or false, got {raw}")
    return np.array(raw, dtype=bool)
