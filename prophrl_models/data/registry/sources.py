"""Opens a dataset by name and folder, whatever published layout the folder is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from calibration.poses import ActionConvention
from prophrl_models.data.registry.adapter import episode_frames, general_episode, layouts_of
from prophrl_models.data.registry.cameras import EpisodeCamera, droid_calibration
from prophrl_models.data.registry.errors import RegistryError
from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.registry.raw import RawEpisode, Source
from prophrl_models.data.registry.resolution import ResolutionRule
from prophrl_models.data.registry.spec_types import DatasetSpec, Format
from prophrl_models.data.registry.specs import spec as find_spec


class RegisteredDataset:
    """A dataset of the registry in a folder on this disk: a sequence of ``GeneralEpisode``.

    Attributes:
        spec: what is known about it.
        source: the reader of the folder's layout.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path,
        *,
        split: str = "train",
        convention: ActionConvention | None = None,
        resolution: ResolutionRule | None = None,
        calibration: str | Path | None = None,
        camera: EpisodeCamera | None = None,
        spec: DatasetSpec | None = None,
    ) -> None:
        """Open a folder.

        Args:
            name: name in the registry, or of a published folder.
            folder: where it lies.
            split: split of an RLDS folder.
            convention: another action convention than the dataset's own.
            resolution: another picture size than the paper's.
            calibration: folder of DROID's calibration release.
            camera: a known camera at the stored picture size.
            spec: a changed specification instead of the registry's.

        Raises:
            UnknownDatasetError: no such dataset.
            RegistryError: a layout the dataset is not published in, or damaged descriptions.
        """
        self.spec = spec or find_spec(name)
        self.folder = Path(folder)
        found = detect(self.folder)
        self._layouts = layouts_of(self.spec, found)
        self.source: Source = _open(found, self.folder, split)
        self._convention, self._resolution, self._camera = convention, resolution, camera
        self._calibration = None if calibration is None else droid_calibration(Path(calibration))

    @property
    def rate_hz(self) -> float:
        """Rate that the files state, or the specification's."""
        return self.source.rate_hz or self.spec.rate_hz

    def __len__(self) -> int:
        return len(self.source)

    def raw(self, index: int) -> RawEpisode:
        """One episode as stored."""
        return self.source.episode(index)

    def episode_id(self, index: int) -> str:
        """The id of an episode, without reading it."""
        return self.source.episode_id(index)

    def lasting_name(self, index: int) -> str:
        """A name that an episode keeps in whatever folder it lies: its recorder's id, else dataset and id."""
        return self.source.recorded_id(index) or f"{self.spec.name}/{self.episode_id(index)}"

    def frames(self, index: int) -> int | None:
        """How many frames an episode has, without reading its numbers and pictures; None where only they say.

        Raises:
            RegistryError: files whose headers show that they are damaged, or that are missing.
        """
        outline = self.source.outline(index)
        return None if outline is None else episode_frames(outline, self._layouts)

    def __getitem__(self, index: int) -> GeneralEpisode:
        """One episode; numbers are read, pictures stay where they are until indexed.

        Raises:
            RegistryError: the episode does not follow the layout; the message says which key or frame.
        """
        return general_episode(
            self.raw(index),
            self.spec,
            self._layouts,
            rate_hz=self.source.rate_hz,
            convention=self._convention,
            resolution=self._resolution,
            calibration=self._calibration,
            camera=self._camera,
        )

    def __iter__(self) -> Iterator[GeneralEpisode]:
        for index in range(len(self)):
            yield self[index]


def detect(folder: Path) -> Format:
    """The layout of a folder, by the files that only it has.

    Raises:
        RegistryError: no such folder, or none of the known layouts.
    """
    if not folder.exists():
        raise RegistryError(f"no folder {folder}; fetch the dataset first (this program downloads nothing)")
    if folder.is_file():
        if folder.suffix in (".hdf5", ".h5"):
            return Format.LIBERO_HDF5
        raise RegistryError(f"{folder} is a file; pass the dataset's folder")
    for fmt, test in _MARKS.items():
        if test(folder):
            return fmt
    raise RegistryError(
        f"{folder} is in none of the known layouts: LeRobot (meta/info.json), RLDS (features.json), LIBERO (*.hdf5), "
        "AgiBot World (proprio_stats/), prophrl (dataset.json)"
    )


def _has(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: next(iter(folder.glob(pattern)), None) is not None


_MARKS: dict[Format, Callable[[Path], bool]] = {
    Format.LEROBOT: _has("meta/info.json"),
    Format.PROPHRL: _has("dataset.json"),
    Format.AGIBOT_H5: _has("proprio_stats"),
    Format.RLDS: lambda folder: _has("features.json")(folder) or _has("*/features.json")(folder),
    Format.LIBERO_HDF5: _has("**/*.hdf5"),
}


def _open(fmt: Format, folder: Path, split: str) -> Source:
    """The reader of a layout; imported here so that h5py and pyarrow are loaded only where they are needed."""
    if fmt is Format.LEROBOT:
        from prophrl_models.data.registry.lerobot_source import LeRobotSource

        return LeRobotSource(folder)
    if fmt is Format.RLDS:
        from prophrl_models.data.registry.rlds_source import RldsSource

        return RldsSource(folder, split)
    if fmt is Format.PROPHRL:
        from prophrl_models.data.registry.own_source import OwnSource

        return OwnSource(folder)
    from prophrl_models.data.registry.hdf5_source import AgibotSource, LiberoSource

    return AgibotSource(folder) if fmt is Format.AGIBOT_H5 else LiberoSource(folder)
