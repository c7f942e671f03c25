"""The vocabulary of a dataset's specification: where the numbers lie in its published files and what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from calibration.poses import ActionConvention
from prophrl_models.data.registry.actions import Representation
from prophrl_models.data.registry.gripper import Gripper, GripperMap
from prophrl_models.data.registry.resolution import Fit, ResolutionRule


class Format(Enum):
    """A published layout; the value is its name on the command line."""

    LEROBOT = "lerobot"
    RLDS = "rlds"
    LIBERO_HDF5 = "libero-hdf5"
    AGIBOT_H5 = "agibot-h5"
    PROPHRL = "prophrl"


class CameraData(Enum):
    """What a dataset publishes about its camera."""

    NONE = "none: scalar action stream only"
    FILES = "intrinsics and extrinsics beside each episode"
    CALIBRATION = "extrinsics with the episodes or in a separate calibration release, intrinsics in the release"
    RECORD = "the cell's hand-eye calibration"


@dataclass(frozen=True)
class Columns:
    """Some columns of one stored key.

    Attributes:
        key: the published key.
        picked: which columns; all of them when ``None``.
        width: how many the key must have; other widths mean another robot. Not checked when ``None``.
    """

    key: str
    picked: tuple[int, ...] | None = None
    width: int | None = None


@dataclass(frozen=True)
class Effector:
    """One end-effector in one layout.

    Attributes:
        position: x, y, z in metres in the dataset's base frame.
        orientation: columns of the orientation; ``None`` where none is stored.
        representation: how the orientation is written.
        measured: raw measured gripper and its mapping; ``None`` where it is not stored, or its scale not documented.
        commanded: raw gripper command and its mapping; ``None`` where the measured one is all there is.
    """

    position: Columns
    orientation: Columns | None
    representation: Representation
    measured: tuple[Columns, GripperMap] | None = None
    commanded: tuple[Columns, Gripper] | None = None


@dataclass(frozen=True)
class RecordedAction:
    """Recorded actions that are used as they are: pose part [T, 6] after multiplication with ``scale``.

    Attributes:
        columns: the six raw numbers.
        scale: metres and radians per raw unit.
    """

    columns: Columns
    scale: tuple[float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Layout:
    """Key names of one dataset in one published layout.

    Attributes:
        format: which reader.
        images: keys of the picture stream that is used, in order of preference.
        effectors: one or two end-effectors.
        instruction: keys of the instruction, in order of preference.
        recorded: recorded actions in the dataset's convention; ``None``: differences of measured poses are taken.
        skip_first: leading steps that are no data.
        action_offset: recorded action i + offset leads from frame i to frame i + 1.
        rotate_180: pictures are stored rotated by 180 degrees.
        swap_red_blue: pictures are stored as BGR.
        note: what one should know about this layout.
    """

    format: Format
    images: tuple[str, ...]
    effectors: tuple[Effector, ...]
    instruction: tuple[str, ...]
    recorded: RecordedAction | None = None
    skip_first: int = 0
    action_offset: int = 0
    rotate_180: bool = False
    swap_red_blue: bool = False
    note: str = ""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of the paper.

    Attributes:
        name: how it is called here.
        title: how it is called elsewhere.
        robot: arm or robot that was recorded.
        convention: what its actions mean after reading.
        rate_hz: rate of frames and actions as published.
        resolution: target size for the world model.
        camera: what is known about the camera.
        layouts: where things lie, per published layout and variant; the first that fits an episode's keys is taken.
        gripper_from: "measured" (opening measured one step later) or "commanded".
        folders: names of published folders that hold it.
        sources: public repositories and documents the facts are from.
        open_questions: where paper and public files are silent or contradict each other, with our reading.
    """

    name: str
    title: str
    robot: str
    convention: ActionConvention
    rate_hz: float
    resolution: ResolutionRule
    camera: CameraData
    layouts: tuple[Layout, ...]
    gripper_from: str = "measured"
    folders: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    open_questions: tuple[str, ...] = field(default_factory=tuple)

    @property
    def effectors(self) -> int:
        """Real end-effectors; N is padded to 2."""
        return len(self.layouts[0].effectors)

    @property
    def formats(self) -> tuple[str, ...]:
        """Layouts it can be read from."""
        return tuple(dict.fromkeys(layout.format.value for layout in self.layouts))

    @property
    def gripper(self) -> str:
        """The mapping that the action's opening comes from, in the first layout."""
        effector = self.layouts[0].effectors[0]
        chosen = effector.measured if self.gripper_from == "measured" else None
        chosen_map = (chosen or effector.commanded or effector.measured or (None, None))[1]
        return str(chosen_map)


OPEN_X_SIZE = ResolutionRule(240, 320, Fit.HEIGHT)
"""Open-X (design specification 4.8)."""
SQUARE_SIZE = ResolutionRule(256, 256, Fit.STRETCH)
"""LIBERO and BRIDGE."""
AGIBOT_SIZE = ResolutionRule(240, 320, Fit.HEIGHT)
"""AgiBot and the own robot; their 4:3 pictures are only scaled."""
DROID_SIZE = ResolutionRule(240, 416, Fit.HEIGHT)
