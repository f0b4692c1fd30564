# SPDX-License-Identifier: Apache-2.0
"""Installs the launch files and the robots' parameters, side by side as here. ros2_ws/src links to this folder."""

from pathlib import Path

from setuptools import setup

NAME = "dropgate_bringup"
HERE = Path(__file__).resolve().parent


def files(pattern: str) -> list[str]:
    """Relative to this folder, as setuptools wants them."""
    return sorted(path.relative_to(HERE).as_posix() for path in HERE.glob(pattern))


setup(
    name=NAME,
    version="0.1.0",
    packages=[],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", *files("*.launch.py")]),
        (f"share/{NAME}/config", files("config/*.yaml")),
        (f"share/{NAME}/config/controllers", files("config/controllers/*.yaml")),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="DropGate engineering",
    maintainer_email="engineering@dropgate.example",
    description="Launch files of DropGate and one parameter file per robot",
    license="Apache-2.0",
)
