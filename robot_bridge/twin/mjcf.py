"""Small helpers to write MJCF: elements with numeric attributes, and meshes and textures made by formula.

Everything visible in the twin is generated here and in the scene files; there is no asset to download or to license.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def add(parent: Element, tag: str, **attributes: object) -> Element:
    """Append an element; numbers and sequences are written with full double precision, a trailing ``_`` is dropped."""
    return SubElement(parent, tag, {name.rstrip("_"): _text(value) for name, value in attributes.items()})


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | np.floating | np.integer):
        return f"{float(value):.17g}"
    if isinstance(value, Iterable):
        return " ".join(_text(item) for item in value)
    raise TypeError(f"cannot write {value!r} as an MJCF attribute")


def lathe(profile_rz: Sequence[tuple[float, float]], segments: int = 40) -> tuple[Array, NDArray[np.int64]]:
    """Closed surface of revolution about z: vertices [V, 3] and faces [F, 3] of a profile of (radius, height) points.

    The profile runs along the outside upwards and back down the inside; a first or last radius of 0 closes the pole.
    """
    angles = np.arange(segments) * 2.0 * np.pi / segments
    vertices: list[Array] = []
    rings: list[list[int]] = []
    for radius, height in profile_rz:
        start = len(vertices)
        if radius == 0.0:
            vertices.append(np.array([0.0, 0.0, height]))
            rings.append([start] * segments)
        else:
            vertices.extend(np.array([radius * math.cos(a), radius * math.sin(a), height]) for a in angles)
            rings.append(list(range(start, start + segments)))
    faces = []
    for low, high in itertools.pairwise(rings):
        for k in range(segments):
            n = (k + 1) % segments
            if low[k] != low[n]:
                faces.append((low[k], low[n], high[k]))
            if high[k] != high[n]:
                faces.append((low[n], high[n], high[k]))
    return np.stack(vertices), np.array(faces)


def wavy_sheet(
    width_m: tuple[float, float],
    height_m: tuple[float, float],
    wave_m: tuple[float, float],
    thickness_m: float = 0.0016,
) -> tuple[Array, NDArray[np.int64]]:
    """Closed thin sheet in the xz plane between two heights, rippled in y: vertices [V, 3], faces [F, 3].

    Widths and wave amplitudes are given at the lower and the upper edge.
    """
    columns, rows = 13, 4
    front: list[tuple[float, float, float]] = []
    for r in range(rows):
        t = r / (rows - 1)
        half = 0.5 * (width_m[0] + t * (width_m[1] - width_m[0]))
        amplitude = wave_m[0] + t * (wave_m[1] - wave_m[0])
        z = height_m[0] + t * (height_m[1] - height_m[0])
        for c in range(columns):
            u = 2.0 * c / (columns - 1) - 1.0
            front.append((half * u, amplitude * math.sin(2.2 * math.pi * u + 0.6 * t), z - 0.15 * half * t * u * u))
    front_V3 = np.array(front)
    offset = np.array([0.0, thickness_m / 2.0, 0.0])
    vertices = np.concatenate([front_V3 - offset, front_V3 + offset])
    n = len(front)
    faces = []
    for r in range(rows - 1):
        for c in range(columns - 1):
            a, b = r * columns + c, r * columns + c + 1
            d, e = a + columns, b + columns
            faces += [(a, b, d), (b, e, d), (n + b, n + a, n + d), (n + b, n + d, n + e)]
    edge = [*range(columns), *(r * columns + columns - 1 for r in range(1, rows))]
    edge += [*range(rows * columns - 2, (rows - 1) * columns - 1, -1), *(r * columns for r in range(rows - 2, 0, -1))]
    for a, b in zip(edge, [*edge[1:], edge[0]], strict=True):
        faces += [(b, a, n + a), (b, n + a, n + b)]
    return vertices, np.array(faces)


def add_mesh(asset: Element, name: str, surface: tuple[Array, NDArray[np.int64]]) -> None:
    """Declare a mesh from vertices and faces."""
    vertices, faces = surface
    face_text = " ".join(str(int(index)) for index in faces.ravel())
    add(asset, "mesh", name=name, vertex=vertices.ravel(), face=face_text)


def wood_png(size: int = 512, planks: int = 6) -> bytes:
    """A wooden table top as PNG bytes: planks with long grain along the image's rows, from a fixed seed."""
    rng = np.random.default_rng(5)
    grain = np.zeros((size, size))
    for octave, (along, across, weight) in enumerate([(4, 40, 0.5), (8, 120, 0.3), (16, size // 2, 0.2)]):
        noise = rng.standard_normal((across, along))
        layer = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
        grain += weight * np.roll(layer, 17 * octave, axis=1)
    plank = np.arange(size) * planks // size
    tone = rng.uniform(-0.35, 0.35, planks)[plank][:, None]
    value = 0.78 + 0.035 * grain + 0.05 * tone
    seam = np.diff(plank, append=plank[-1:] + 1) > 0
    value[seam] -= 0.10
    rgb = np.clip(value[..., None] * np.array([0.93, 0.80, 0.63]), 0.0, 1.0)
    ok, encoded = cv2.imencode(".png", (rgb[..., ::-1] * 255.0).astype(np.uint8))
    if not ok:
        raise RuntimeError("OpenCV could not encode the table texture as PNG; check the OpenCV installation")
    return encoded.tobytes()
