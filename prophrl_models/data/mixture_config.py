"""The configuration of a mixture: which datasets, which windows, how often each dataset is drawn from.

seed: 0
batch_size: 16
root: data                       # folders of sources lie in it
rates: native                    # or same
window: {history: 60, actions: 20}
sources:
  droid: {folder: droid/1.0.1}   # the key is the dataset's name in the registry ...
  spatial: {dataset: libero, folder: libero_spatial, weight: 2.0}   # ... unless ``dataset`` gives it
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from calibration.poses import ActionConvention
from prophrl_models.data.windows import WindowRule

T = TypeVar("T")


class MixtureError(ValueError):
    """A mixture that cannot be drawn from; the message says what to change."""


@dataclass(frozen=True)
class SourceConfig:
    """One dataset of a mixture.

    Attributes:
        label: its name in the mixture; two sources may be folders of the same dataset.
        dataset: name in the registry (``prophrl dataset sources``).
        folder: where it lies.
        split: split of an RLDS folder.
        weight: share of the batches relative to the other sources; ``None``: by size.
        stride: every stride-th frame is taken, and the actions between are composed: 3 makes 10 Hz of 30 Hz.
        convention: another action convention than the dataset's own.
        calibration: folder of DROID's calibration release.
        leave_out_damaged: unreadable episodes are listed and left out instead of refused.
    """

    label: str
    dataset: str
    folder: Path
    split: str = "train"
    weight: float | None = None
    stride: int = 1
    convention: ActionConvention | None = None
    calibration: Path | None = None
    leave_out_damaged: bool = False

    def __post_init__(self) -> None:
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight > 0):
            raise MixtureError(
                f"source {self.label!r}: weight must be a positive number, got {self.weight}; "
                "remove the source to draw nothing from it"
            )
        if self.stride < 1:
            raise MixtureError(f"source {self.label!r}: stride must be 1 or more frames, got {self.stride}")


@dataclass(frozen=True)
class MixtureConfig:
    """A mixture.

    Attributes:
        sources: at least one; either all of them have a weight, or none has.
        window: what is cut out of an episode; each source's ``stride`` is put into it.
        batch_size: windows of a batch.
        seed: of every order and choice.
        temperature: without weights, a source is drawn with a probability proportional to its number of windows to the
            power 1 / temperature: 1 is proportional to size, larger values bring the sources closer to equal shares.
        rates: "same": all sources must have one control rate (after ``stride``); "native": each keeps its own, and a
            window of 20 actions lasts 2 s at 10 Hz and 6.7 s at 3 Hz. Batches carry their rate.
        run_length: consecutive batches that are drawn from the same source. With the number of processes here, all of
            them work on the same dataset at the same time (same picture size, same conditioning).
        shuffle_episodes: episodes whose windows are shuffled together; more mixes better and opens files more often.
        open_episodes: episodes each worker keeps open, over all sources.
        index: folder where the lengths of all episodes are kept between runs; ``None``: read them every time.
    """

    sources: tuple[SourceConfig, ...]
    window: WindowRule = field(default_factory=WindowRule)
    batch_size: int = 16
    seed: int = 0
    temperature: float = 1.0
    rates: str = "same"
    run_length: int = 1
    shuffle_episodes: int = 64
    open_episodes: int = 128
    index: Path | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise MixtureError("a mixture needs at least one source; name one under 'sources'")
        labels = [source.label for source in self.sources]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise MixtureError(f"sources named twice: {', '.join(twice)}; give each its own name")
        for name in ("batch_size", "run_length", "shuffle_episodes", "open_episodes"):
            if getattr(self, name) < 1:
                raise MixtureError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise MixtureError(f"seed must not be negative, got {self.seed}")
        if self.rates not in ("same", "native"):
            raise MixtureError(f"rates must be 'same' or 'native', got {self.rates!r}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise MixtureError(f"temperature must be a positive number, got {self.temperature}")
        without = [source.label for source in self.sources if source.weight is None]
        if without and len(without) < len(self.sources):
            raise MixtureError(
                f"sources without a weight: {', '.join(without)}; give all sources one, or none (then sizes decide)"
            )
        if not without and self.temperature != 1.0:
            raise MixtureError("temperature only acts where sizes decide; remove it or the weights")


def load_mixture(path: str | Path) -> MixtureConfig:
    """Read a YAML file; folders are relative to its ``root``, and ``root`` to the working directory.

    Raises:
        MixtureError: no such file, not YAML, or a key, type or value that does not belong.
    """
    path = Path(path)
    if not path.is_file():
        raise MixtureError(f"no mixture configuration at {path}; config/train/mixture_paper.yaml is one")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise MixtureError(f"{path} is not YAML: {error}") from error
    return mixture_from(raw, path.name)


def mixture_from(raw: Any, where: str = "mixture") -> MixtureConfig:
    """A configuration of plain values; see ``load_mixture``."""
    values = _mapping(raw, where)
    root = Path(_text(values.pop("root", "."), f"{where}.root"))
    values["sources"] = tuple(
        _source(str(label), entry, root, f"{where}.sources.{label}")
        for label, entry in _mapping(values.get("sources"), f"{where}.sources").items()
    )
    window = f"{where}.window"
    values["window"] = _build(WindowRule, _mapping(values.get("window", {}), window), _WINDOW, window)
    return _build(MixtureConfig, values, _MIXTURE, where)


def _source(label: str, raw: Any, root: Path, where: str) -> SourceConfig:
    values = _mapping(raw, where)
    if "folder" not in values:
        raise MixtureError(f"{where}: no 'folder'; say where the dataset lies (nothing is downloaded)")
    values = {"dataset": label, **values, "label": label}
    source = _build(SourceConfig, values, _SOURCE, where)
    calibration = None if source.calibration is None else root / source.calibration
    return SourceConfig(**{**vars(source), "folder": root / source.folder, "calibration": calibration})


def _build(cls: Callable[..., T], values: Mapping[str, Any], kinds: Mapping[str, _Kind], where: str) -> T:
    known = [entry.name for entry in fields(cls) if entry.name in kinds]  # type: ignore[arg-type]
    checked = {}
    for key, value in values.items():
        if key not in kinds:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise MixtureError(f"{where}: unknown key {key!r}, known are {', '.join(known)}{hint}")
        checked[key] = kinds[key](value, f"{where}.{key}")
    try:
        return cls(**checked)
    except MixtureError:
        raise
    except ValueError as error:
        raise MixtureError(f"{where}: {error}") from error


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise MixtureError(f"{where} must be a mapping, got {value!r}")
    return dict(value)


def _whole(value: Any, where: str) -> int:
    if type(value) is not int:
        raise MixtureError(f"{where} must be a whole number, got {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float):
        raise MixtureError(f"{where} must be a number, got {value!r}")
    return float(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise MixtureError(f"{where} must be text, got {value!r}")
    return value


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise MixtureError(f"{where} must be true or false, got {value!r}")
    return value


def _path(value: Any, where: str) -> Path:
    return Path(_text(value, where))


def _convention(value: Any, where: str) -> ActionConvention:
    names = [convention.name.lower() for convention in ActionConvention]
    if value not in names:
        raise MixtureError(f"{where} must be one of {', '.join(names)}, got {value!r}")
    return ActionConvention[str(value).upper()]


def _optional(kind: _Kind) -> _Kind:
    return lambda value, where: None if value is None else kind(value, where)


def _as_is(value: Any, where: str) -> Any:
    return value


_Kind = Callable[[Any, str], Any]
_WINDOW: dict[str, _Kind] = {"history": _whole, "actions": _whole, "min_actions": _optional(_whole), "step": _whole}
_SOURCE: dict[str, _Kind] = {
    "label": _text,
    "dataset": _text,
    "folder": _path,
    "split": _text,
    "weight": _optional(_number),
    "stride": _whole,
    "convention": _optional(_convention),
    "calibration": _optional(_path),
    "leave_out_damaged": _switch,
}
_MIXTURE: dict[str, _Kind] = {
    "sources": _as_is,
    "window": _as_is,
    "batch_size": _whole,
    "seed": _whole,
    "temperature": _number,
    "rates": _text,
    "run_length": _whole,
    "shuffle_episodes": _whole,
    "open_episodes": _whole,
    "index": _optional(_path),
}
