# SPDX-License-Identifier: Apache-2.0
"""ros2_ws/build.py: which way it builds, what it asks for, and that it changes nothing else in the environment."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

REPO = Path(__file__).resolve().parent.parent
WHEEL = """set_target_properties(std_msgs::py PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "/opt/python/cp311-cp311/include/python3.11;{numpy};${{_IMPORT_PREFIX}}/include"
)
"""
BUILDER_NUMPY = "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
OLDER_NUMPY = "/home/somebody/.venv/lib/python3.11/site-packages/numpy/core/include"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ros2_ws_build", REPO / "ros2_ws" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PREFIX", tmp_path)
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    return module


@pytest.mark.parametrize("numpy", [BUILDER_NUMPY, OLDER_NUMPY])
def test_foreign_include_folders_become_those_of_this_python(build: ModuleType, tmp_path: Path, numpy: str) -> None:
    file = tmp_path / "std_msgs" / "cmake" / "export.cmake"
    file.parent.mkdir(parents=True)
    file.write_text(WHEEL.format(numpy=numpy))
    shared = tmp_path / "cache.cmake"
    os.link(file, shared)
    (tmp_path / "other.cmake").write_text("set(A /opt/python/readme)\n")

    assert build.point_cmake_to_this_python(tmp_path / "std_msgs") == 1
    ours = f'"{sysconfig.get_paths()["include"]};{np.get_include()};${{_IMPORT_PREFIX}}/include"'
    assert ours in file.read_text()
    assert shared.read_text() == WHEEL.format(numpy=numpy), "a package cache that shares the file is not written to"
    assert (tmp_path / "other.cmake").read_text() == "set(A /opt/python/readme)\n"
    assert build.point_cmake_to_this_python(tmp_path) == 1  # the link above, as it lies below this folder
    assert build.point_cmake_to_this_python(tmp_path) == 0


def test_only_a_prefix_outside_the_environment_counts_as_ros(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not build.ros_is_sourced()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))  # the environment's own setup.bash was sourced
    assert not build.ros_is_sourced()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}{os.pathsep}/opt/ros/jazzy")
    assert build.ros_is_sourced()


def test_sourced_ros_is_plain_colcon_and_leaves_the_environment_alone(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = []
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/jazzy")
    monkeypatch.setattr(build, "require_tools", lambda: None)
    monkeypatch.setattr(build.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(
        build.subprocess,
        "run",
        lambda command, **options: started.append((command, options)) or build.subprocess.CompletedProcess(command, 3),
    )
    assert build.main(["--symlink-install"]) == 3
    ((command, options),) = started
    assert command[-2:] == ["build", "--symlink-install"]
    assert options == {"cwd": REPO / "ros2_ws", "check": False}
    assert not list(tmp_path.iterdir())


def test_missing_wheels_are_named_with_both_ways_to_get_ros(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.sys, "base_prefix", "/elsewhere")
    assert build.main([]) == 2
    error = capsys.readouterr().err
    assert "rosidl_default_generators" in error
    assert "make install-ros" in error
    assert "source /opt/ros" in error


def test_python_outside_a_virtual_environment_is_never_built_into(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.sys, "base_prefix", build.sys.prefix)
    assert build.main([]) == 2
    assert "virtual environment" in capsys.readouterr().err


def test_missing_compiler_is_an_apt_command(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(build.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(build.shutil, "which", lambda program: None if program in ("cmake", "g++") else program)
    with pytest.raises(build.CannotBuild, match=r"sudo apt-get install -y cmake g\+\+$"):
        build.require_tools()
    (tmp_path / "Python.h").unlink()
    with pytest.raises(build.CannotBuild, match="python3-dev"):
        build.require_tools()


def test_digest_sees_every_source_and_no_cache(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources, linked = tmp_path / "src", tmp_path / "launch"
    for file in (sources / "a" / "package.xml", linked / "config" / "arm.yaml"):
        file.parent.mkdir(parents=True)
        file.write_text("one")
    (sources / "bringup").symlink_to(linked)
    monkeypatch.setattr(build, "SOURCES", sources)
    before = build.digest_of_sources()
    (sources / "a" / "__pycache__").mkdir()
    (sources / "a" / "__pycache__" / "a.pyc").write_text("compiled")
    assert build.digest_of_sources() == before
    (linked / "config" / "arm.yaml").write_text("two")
    assert build.digest_of_sources() != before
