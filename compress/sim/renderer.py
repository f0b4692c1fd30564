# SPDX-License-Identifier: Apache-2.0
"""Which offscreen renderer MuJoCo should use on this machine (`MUJOCO_GL`), decided before MuJoCo is imported.

Chosen: EGL only where a render device exists and initialises, OSMesa otherwise. Rejected: EGL always, because without
a device it is the same software rasteriser (same bytes, same cost) with a noisier teardown.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import os

_PLATFORM_DEVICE_EXT = 0x313F
_MAX_DEVICES = 16


class NoRenderer(RuntimeError):
    """Neither EGL nor OSMesa can draw offscreen here."""


def choose_renderer() -> str:
    """Sets `MUJOCO_GL` (and `LP_NUM_THREADS`) unless the user did, and returns the renderer's name.

    Raises:
        NoRenderer: no offscreen library was found; the message says what to install.
    """
    # llvmpipe's own threads bring nothing at these image sizes and fight with worker processes
    os.environ.setdefault("LP_NUM_THREADS", "1")
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked:
        return asked
    if _render_device_exists() and _egl_works():
        chosen = "egl"
    elif ctypes.util.find_library("OSMesa"):
        chosen = "osmesa"
    elif _egl_works():
        chosen = "egl"
    else:
        raise NoRenderer(
            "no offscreen renderer: libEGL finds no usable device and libOSMesa is not installed. "
            "Available choices: egl, osmesa. Next: apt-get install libosmesa6 (or libegl1 libegl-mesa0 libgl1-mesa-dri)"
        )
    os.environ["MUJOCO_GL"] = chosen
    return chosen


def _render_device_exists() -> bool:
    return bool(glob.glob("/dev/dri/renderD*") or glob.glob("/dev/nvidia[0-9]*"))


def _egl_works() -> bool:
    """True when one EGL device can be initialised; the way robosuite will open it."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    find = egl.eglGetProcAddress
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    query_at, display_at = find(b"eglQueryDevicesEXT"), find(b"eglGetPlatformDisplayEXT")
    if not query_at or not display_at:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(query_at)
    open_display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(display_at)
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    devices, count = (ctypes.c_void_p * _MAX_DEVICES)(), ctypes.c_int(0)
    if not query(_MAX_DEVICES, devices, ctypes.byref(count)):
        return False
    displays = (open_display(_PLATFORM_DEVICE_EXT, devices[i], None) for i in range(count.value))
    return any(display and egl.eglInitialize(display, None, None) for display in displays)
