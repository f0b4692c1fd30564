# SPDX-License-Identifier: Apache-2.0
"""Where `colcon build` puts the controller: modules, the DDS profile beside them, executables in lib/<package>."""

from setuptools import setup

NAME = "dropgate_controller"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    package_data={NAME: ["*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="DropGate engineering",
    maintainer_email="engineering@dropgate.example",
    description="Runs a verified DropGate artifact on an arm: the managed controller node and its independent guard",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "controller_node = dropgate_controller.controller_node:main",
            "guard_node = dropgate_controller.guard_node:main",
            "security_policy = dropgate_controller.security:main",
        ]
    },
)
