"""Off-screen pictures of the twin: RGB and depth in one pass, from ``qpos`` alone, in any process.

The camera is the fixed third-person D455 of the cell: a pinhole with f = 212 px at 424x240 that scales with the image
height; a narrower image of the same height is the centre crop of the wider one, pixel by pixel. Any other pinhole at
any other place can be given instead, moved from picture to picture, or mounted on the tool.

OpenGL comes from OSMesa (apt libosmesa6) or, when that is missing, EGL; both draw in software and neither needs a
display. The environment variable MUJOCO_GL chooses one of the two; it cannot change within a process.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import importlib
import math
import os
import weakref
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.camera import PinholeCamera
from calibration.poses import inverse
from robot_bridge.twin.camera_place import twin_camera
from robot_bridge.twin.gripper_model import FINGERS, KNUCKLE_LENGTH_M, KNUCKLE_PIVOT_M
from robot_bridge.twin.scenes import FAR_M, NEAR_M, build_model
from robot_bridge.ur_kinematics import DhDeltas

__all__ = ["D455Noise", "RenderError", "Renderer", "twin_camera"]

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
DepthM = NDArray[np.float32]

_KNUCKLE_FINGER_X_M = 0.017
"""Where a knuckle bar meets its finger: x from the pad's face."""


class RenderError(RuntimeError):
    """No OpenGL context could be made; the message says what to install."""


def _off_screen_context(width: int, height: int) -> Any:
    """A GL context of MuJoCo's own, of the platform asked for rather than the one chosen when mujoco was imported."""
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted not in ("osmesa", "egl"):
        # OSMesa is the faster and steadier of the two software renderers.
        wanted = "osmesa" if ctypes.util.find_library("OSMesa") else "egl"
    try:
        return importlib.import_module(f"mujoco.{wanted}").GLContext(width, height)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise RenderError(
            f"no off-screen OpenGL through {wanted} ({error}); install OSMesa (apt install libosmesa6), "
            "or EGL with Mesa (apt install libegl1 libgl1-mesa-dri) and set MUJOCO_GL=egl"
        ) from error


def _release(gl: Any, context: Any) -> None:
    gl.make_current()
    context.free()
    gl.free()


class Renderer:
    """One off-screen context for one scene; use and close it in the thread that made it.

    Args:
        task_id: which scene.
        width, height: image size in pixels; default 424x240, or the size of ``camera``.
        deltas: DH deltas of the arm to draw; None draws the nominal arm (the difference is a millimetre).
        seed: the cell's, for the mount of the board in a calibration scene.
        camera: intrinsics without distortion, and pose in base; None is the twin's camera at its nominal place.
        T_tool_camera: [4, 4] mounts the camera on the tool, see ``ride``.

    Raises:
        ValueError: unknown scene, or a camera that cannot be drawn.
        RenderError: no software OpenGL on this machine.
    """

    def __init__(
        self,
        task_id: str,
        width: int | None = None,
        height: int | None = None,
        *,
        deltas: DhDeltas | None = None,
        seed: int = 0,
        camera: PinholeCamera | None = None,
        T_tool_camera: ArrayLike | None = None,
    ) -> None:
        self.task_id = task_id
        default = (424, 240) if camera is None else (camera.width, camera.height)
        self.width, self.height = width, height = width or default[0], height or default[1]
        self._model = build_model(task_id, deltas, width=width, height=height, seed=seed)
        self._data = mujoco.MjData(self._model)
        self._gl = _off_screen_context(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        # OpenGL objects are freed in whatever context is current: free them in their own, before a garbage collector
        # or the interpreter's exit does it while another renderer's context is current.
        self._release = weakref.finalize(self, _release, self._gl, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=200)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = (1, 1, 0, 0, 0, 0)
        self._option.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = int(self._model.camera("d455").id)
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._rgb = np.empty((height, width, 3), dtype=np.uint8)
        self._depth = np.empty((height, width), dtype=np.float32)
        self._knuckles = [
            (int(self._model.body(f"{name}_knuckle").id), int(self._model.joint(name).qposadr[0]), side)
            for name, side in zip(FINGERS, (1.0, -1.0), strict=True)
        ]
        mujoco.mj_forward(self._model, self._data)
        self._tcp_site = int(self._model.site("tcp").id)
        self._view = twin_camera(width, height)
        self._placed = False
        self._T_tool_camera: Array | None = None
        if camera is not None:
            self.aim(camera)
        if T_tool_camera is not None:
            self.ride(T_tool_camera)

    @property
    def camera(self) -> PinholeCamera:
        """The camera that the last picture was taken with; one on the tool has a pose from the first picture on."""
        return self._view

    def aim(self, camera: PinholeCamera) -> None:
        """Take the next pictures with this camera, fixed where its pose in base says.

        Raises:
            ValueError: another image size than this renderer's, or a distorted lens, which it cannot draw.
        """
        if (camera.width, camera.height) != (self.width, self.height):
            raise ValueError(
                f"this renderer draws {self.width}x{self.height}, the camera is {camera.width}x{camera.height}; use "
                "camera.resized, or another renderer"
            )
        if camera.distortion is not None and np.any(camera.distortion):
            raise ValueError(f"only a lens without distortion can be drawn, got {camera.distortion.tolist()}")
        nominal = twin_camera(self.width, self.height)
        if not np.array_equal(camera.K, nominal.K) or self._model.cam_sensorsize[self._camera.fixedcamid].any():
            self._set_lens(camera)
        self._view, self._placed, self._T_tool_camera = camera, True, None

    def ride(self, T_tool_camera: ArrayLike) -> None:
        """Mount the camera on the tool at this pose [4, 4] of its optical frame; intrinsics stay as they are."""
        self._T_tool_camera = np.array(T_tool_camera, dtype=np.float64).reshape(4, 4)
        self._placed = True

    def _set_lens(self, camera: PinholeCamera) -> None:
        """MuJoCo counts from the principal point to the image's centre; here one pixel of the sensor is one metre."""
        index = self._camera.fixedcamid
        # The sensor's size decides whether the lens is used instead of the field of view.
        self._model.cam_sensorsize[index] = (self.width, self.height)
        shift = ((self.width - 1) / 2 - camera.cx, (self.height - 1) / 2 - camera.cy)
        self._model.cam_intrinsic[index] = (camera.fx, camera.fy, *shift)

    def render(self, qpos: ArrayLike) -> tuple[Image, DepthM]:
        """Colour [H, W, 3] uint8 and ideal depth [H, W] float32 in metres along the optical axis; rows from the top."""
        self._draw(qpos)
        mujoco.mjr_readPixels(self._rgb, self._depth, self._viewport, self._context)
        depth = NEAR_M / (1.0 - self._depth[::-1] * np.float32(1.0 - NEAR_M / FAR_M))
        return np.ascontiguousarray(self._rgb[::-1]), depth

    def render_color(self, qpos: ArrayLike) -> Image:
        """Colour only [H, W, 3] uint8."""
        self._draw(qpos)
        mujoco.mjr_readPixels(self._rgb, None, self._viewport, self._context)
        return np.ascontiguousarray(self._rgb[::-1])

    def _draw(self, qpos: ArrayLike) -> None:
        values = np.asarray(qpos, dtype=np.float64)
        if values.shape != (self._model.nq,):
            raise ValueError(
                f"{self.task_id} has {self._model.nq} positions, got shape {values.shape}; "
                "is this the qpos of another task's world?"
            )
        if not self._release.alive:
            raise RenderError(f"this renderer of {self.task_id} was closed; make a new one")
        self._data.qpos[:] = values
        self._turn_knuckles(values)
        mujoco.mj_kinematics(self._model, self._data)
        self._gl.make_current()
        if self._placed:
            self._place_camera()
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._context)

    def _place_camera(self) -> None:
        data, index = self._data, self._camera.fixedcamid
        if self._T_tool_camera is not None:
            T_base_tool = np.eye(4)
            T_base_tool[:3, :3] = data.site_xmat[self._tcp_site].reshape(3, 3)
            T_base_tool[:3, 3] = data.site_xpos[self._tcp_site]
            self._view = dataclasses.replace(self._view, T_camera_base=inverse(T_base_tool @ self._T_tool_camera))
        T_base_camera = self._view.T_base_camera
        data.cam_xpos[index] = T_base_camera[:3, 3]
        # OpenGL looks along -z with y upwards.
        data.cam_xmat[index] = (T_base_camera[:3, :3] * (1.0, -1.0, -1.0)).ravel()
        # The headlight is where the camera was at the last update: without this one, at the place before.
        mujoco.mjv_updateCamera(self._model, data, self._camera, self._scene)

    def _turn_knuckles(self, qpos: NDArray[np.float64]) -> None:
        """The bars between palm and fingers have no joint; they are turned to point at their finger."""
        for body, address, side in self._knuckles:
            reach = float(qpos[address]) + _KNUCKLE_FINGER_X_M - KNUCKLE_PIVOT_M[0]
            angle = side * math.asin(max(-0.9, min(0.9, reach / KNUCKLE_LENGTH_M)))
            self._model.body_quat[body] = (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0)

    def close(self) -> None:
        """Free the OpenGL context; the renderer cannot be used afterwards."""
        self._release()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class D455Noise:
    """Depth as the stereo camera measures it: noise that grows with the square of distance, a blind zone, millimetres.

    sigma = z^2 * subpixel / (f * B) with a disparity noise of 0.08 px and B = 95 mm; closer than f * B / 126 the
    disparity search ends and the value is 0, as it is beyond ``max_range_m``.

    Args:
        rng: noise source.
        focal_px: focal length of the depth image.
    """

    SUBPIXEL_PX = 0.08
    BASELINE_M = 0.095
    MAX_DISPARITY_PX = 126.0

    def __init__(self, rng: np.random.Generator, *, focal_px: float = 212.0, max_range_m: float = 6.0) -> None:
        self._rng = rng
        self._scale = self.SUBPIXEL_PX / (focal_px * self.BASELINE_M)
        self.min_range_m = focal_px * self.BASELINE_M / self.MAX_DISPARITY_PX
        self.max_range_m = max_range_m

    def apply(self, depth_m: DepthM) -> NDArray[np.uint16]:
        """Z16 image [H, W] in units of 1 mm of an ideal depth image [H, W] in metres; 0 where nothing is measured."""
        noise = self._rng.standard_normal(depth_m.shape, dtype=np.float32)
        noisy = depth_m + noise * (depth_m * depth_m * np.float32(self._scale))
        millimetres = np.rint(noisy * np.float32(1000.0))
        valid = (depth_m >= self.min_range_m) & (depth_m <= self.max_range_m)
        return np.where(valid, millimetres, 0.0).astype(np.uint16)
