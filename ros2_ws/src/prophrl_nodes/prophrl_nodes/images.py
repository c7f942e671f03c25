"""Image messages without copies that need not be. Receivers view the raw bytes with ``prophrl_models.data.cdr``.

Assigning an ndarray or a list to ``Image.data`` converts it element by element (over 100 ms a frame); an
``array.array`` that the message keeps is filled in place and serialised at once.
"""

from __future__ import annotations

import array

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image

from calibration.camera import PinholeCamera
from prophrl_nodes.messages import header, to_stamp

_ENCODINGS: dict[str, tuple[type[np.generic], int]] = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "mono8": (np.uint8, 1),
    "16UC1": (np.uint16, 1),
    "mono16": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}


class ImageFormatError(ValueError):
    """An image that does not fit its message; says what came and what was expected."""


class ImageMessage:
    """An Image message of fixed size whose pixels are written in place; publish it before the next ``fill``."""

    def __init__(self, height: int, width: int, encoding: str, frame_id: str) -> None:
        kind, channels = _lookup(encoding)
        step = width * channels * np.dtype(kind).itemsize
        shape = (height, width) if channels == 1 else (height, width, channels)
        self.message = Image(
            header=header(0, frame_id), height=height, width=width, encoding=encoding, is_bigendian=0, step=step
        )
        self.message.data = array.array("B", bytes(height * step))
        # The message may have taken a copy: look into the array it holds, not into the one it was given.
        self.pixels: NDArray[np.generic] = np.frombuffer(self.message.data, dtype=kind).reshape(shape)

    def fill(self, image: NDArray[np.generic], stamp_ns: int) -> Image:
        """Copy ``image`` (HxWx3 or HxW, of the encoding's type) into the message and stamp it.

        Raises:
            ImageFormatError: wrong shape or type.
        """
        if image.shape != self.pixels.shape or image.dtype != self.pixels.dtype:
            raise ImageFormatError(
                f"expected an image of shape {self.pixels.shape} and type {self.pixels.dtype}, "
                f"got {image.shape} and {image.dtype}"
            )
        self.pixels[...] = image
        self.message.header.stamp = to_stamp(stamp_ns)
        return self.message


def camera_info(camera: PinholeCamera, frame_id: str) -> CameraInfo:
    """CameraInfo of a pinhole camera, unstamped; the distortion is OpenCV's five numbers."""
    message = CameraInfo(header=header(0, frame_id), height=camera.height, width=camera.width)
    message.distortion_model = "plumb_bob"
    message.d = [0.0] * 5 if camera.distortion is None else [float(value) for value in camera.distortion[:5]]
    message.k = [float(value) for value in camera.K.reshape(-1)]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def _lookup(encoding: str) -> tuple[type[np.generic], int]:
    if encoding not in _ENCODINGS:
        raise ImageFormatError(f"image encoding {encoding!r} is not published here; known are {', '.join(_ENCODINGS)}")
    return _ENCODINGS[encoding]
