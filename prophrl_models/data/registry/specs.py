"""The registry: every dataset of the paper by name.

``spec("droid")`` gives what is known of it; a wrong name is answered with the list. Published folder names
("fractal20220817_data", "bridge_orig") find their dataset, too.
"""

from __future__ import annotations

from prophrl_models.data.registry.errors import UnknownDatasetError
from prophrl_models.data.registry.spec_types import (
    CameraData,
    Columns,
    DatasetSpec,
    Effector,
    Format,
    Layout,
    RecordedAction,
)
from prophrl_models.data.registry.specs_open_x import OPEN_X
from prophrl_models.data.registry.specs_robots import OWN_ROBOT, ROBOTS

__all__ = [
    "SPECS",
    "CameraData",
    "Columns",
    "DatasetSpec",
    "Effector",
    "Format",
    "Layout",
    "RecordedAction",
    "names",
    "spec",
]

SPECS: dict[str, DatasetSpec] = {entry.name: entry for entry in (*ROBOTS, *OPEN_X, OWN_ROBOT)}


def names() -> tuple[str, ...]:
    """Valid names in the order of the paper."""
    return tuple(SPECS)


def spec(name: str) -> DatasetSpec:
    """The specification of a dataset by its name here or by the name of a published folder.

    Raises:
        UnknownDatasetError: no such dataset; the message lists all of them and the nearest one.
    """
    if name in SPECS:
        return SPECS[name]
    for entry in SPECS.values():
        if name in entry.folders:
            return entry
    raise UnknownDatasetError(name, SPECS)
