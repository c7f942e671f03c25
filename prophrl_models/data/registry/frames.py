"""Pictures that are decoded only where they are looked at: encoded bytes, HDF5 arrays, videos.

All of them can be pickled (paths, bytes and numbers, no open files), so that data-loader workers can have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.image import Image
from prophrl_models.data.registry.errors import CorruptFileError, RegistryError
from prophrl_models.data.registry.resolution import ResolutionRule


class FrameSource(Protocol):
    """A stream of RGB pictures of one size."""

    def __len__(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def read(self, indices: Sequence[int]) -> list[Image]:
        """Pictures [H, W, 3] uint8 RGB at increasing indices."""
        ...


@dataclass(frozen=True)
class EncodedFrames:
    """JPEG or PNG bytes, one per frame."""

    encoded: tuple[bytes, ...]
    where: str

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.read([0])[0].shape[:2]
        return height, width

    def read(self, indices: Sequence[int]) -> list[Image]:
        return [self._decode(index) for index in indices]

    def _decode(self, index: int) -> Image:
        data = np.frombuffer(self.encoded[index], np.uint8)
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if bgr is None:
            raise CorruptFileError(f"{self.where}: picture {index} is neither JPEG nor PNG ({len(data)} bytes)")
        return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


@dataclass(frozen=True)
class Hdf5Frames:
    """A dataset [T, H, W, 3] uint8 in an HDF5 file, read in slices."""

    file: Path
    key: str
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.shape[1], self.shape[2]

    def read(self, indices: Sequence[int]) -> list[Image]:
        import h5py

        with h5py.File(self.file, "r") as stored:
            data = stored[self.key]
            return [np.asarray(data[index], dtype=np.uint8) for index in indices]


@dataclass(frozen=True)
class ArrayFrames:
    """Pictures in memory or memory-mapped [T, H, W, 3], and one more that is kept apart."""

    array: NDArray[np.uint8]
    final_HW3: Image | None = None

    def __len__(self) -> int:
        return len(self.array) + (self.final_HW3 is not None)

    @property
    def size(self) -> tuple[int, int]:
        return self.array.shape[1], self.array.shape[2]

    def read(self, indices: Sequence[int]) -> list[Image]:
        return [self._picture(index) for index in indices]

    def _picture(self, index: int) -> Image:
        if self.final_HW3 is not None and index == len(self.array):
            return self.final_HW3
        return np.asarray(self.array[index])


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video from ``start_s`` on, at a fixed rate; one video may hold several episodes (LeRobot v3.0)."""

    file: Path
    start_s: float
    rate_hz: float
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def size(self) -> tuple[int, int]:
        import av

        with _opened(self.file) as container:
            stream = container.streams.video[0]
            assert isinstance(stream, av.VideoStream)
            return int(stream.height), int(stream.width)

    def read(self, indices: Sequence[int]) -> list[Image]:
        """Seeks to the key frame before the first index, then decodes up to the last one."""
        if not len(indices):
            return []
        found: dict[int, Image] = {}
        wanted = set(indices)
        with _opened(self.file) as container:
            stream = container.streams.video[0]
            time_base = Fraction(stream.time_base or 1)
            origin = stream.start_time or 0
            first_s = self.start_s + min(indices) / self.rate_hz
            # Half a frame early: the stamp of the wanted frame may be rounded down by the container's time base.
            target = int((max(first_s - 0.5 / self.rate_hz, 0.0)) / time_base) + origin
            container.seek(target, stream=stream, backward=True)
            for frame in container.decode(stream):
                stamp_s = float((frame.pts - origin) * time_base)
                index = round((stamp_s - self.start_s) * self.rate_hz)
                if index in wanted and index not in found:
                    found[index] = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
                if len(found) == len(wanted) or index > max(indices):
                    break
        missing = sorted(wanted - set(found))
        if missing:
            raise CorruptFileError(
                f"{self.file}: no frame {missing[0]} (at {self.start_s + missing[0] / self.rate_hz:.3f} s); the video "
                "is shorter than its table says, fetch it again"
            )
        return [found[index] for index in indices]


@dataclass(frozen=True)
class FittedImages:
    """A stream as the general episode shows it: RGB uint8 [T, H, W, 3] at the target size, decoded on indexing.

    Attributes:
        stream: where the pictures come from.
        rule: target size; ``None`` leaves them as they are.
        first: the stream's frame that is frame 0 here.
        count: frames here.
        rotate_180: pictures are stored upside down and mirrored (LIBERO's renderings, as its policies turn them).
        swap_red_blue: pictures are stored as BGR (Stanford HYDRA).
    """

    stream: FrameSource
    rule: ResolutionRule | None
    first: int
    count: int
    rotate_180: bool = False
    swap_red_blue: bool = False

    def __post_init__(self) -> None:
        if self.first < 0 or self.first + self.count > len(self.stream):
            raise RegistryError(
                f"{self.count} pictures from number {self.first} on are wanted, the stream has {len(self.stream)}"
            )

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        height, width = self.stream.size if self.rule is None else (self.rule.height, self.rule.width)
        return (self.count, height, width, 3)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def __getitem__(self, index: int | slice) -> Image:
        if isinstance(index, slice):
            picked = range(self.count)[index]
            ordered = picked if picked.step > 0 else picked[::-1]
            pictures = self._read(list(ordered))
            if not pictures:
                return np.zeros((0, *self.shape[1:]), np.uint8)
            return np.stack(pictures if picked.step > 0 else pictures[::-1])
        position = int(index) + self.count if index < 0 else int(index)
        if not 0 <= position < self.count:
            raise IndexError(f"frame {index} is outside 0..{self.count - 1}")
        return self._read([position])[0]

    def _read(self, positions: list[int]) -> list[Image]:
        return [self._fit(picture) for picture in self.stream.read([self.first + position for position in positions])]

    def _fit(self, picture: Image) -> Image:
        if self.rotate_180:
            picture = picture[::-1, ::-1]
        if self.swap_red_blue:
            picture = picture[..., ::-1]
        picture = np.ascontiguousarray(picture)
        return picture if self.rule is None else self.rule.image(picture)


def _opened(file: Path):  # type: ignore[no-untyped-def]  # PyAV's stubs name no common container type
    import av

    try:
        return av.open(str(file))
    except FileNotFoundError as error:
        raise RegistryError(f"no video {file}; fetch the dataset's videos, too") from error
    except av.error.InvalidDataError as error:
        raise CorruptFileError(f"{file} is not a video from byte 0 on ({error}); fetch it again") from error
