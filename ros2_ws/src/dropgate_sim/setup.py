# SPDX-License-Identifier: Apache-2.0
"""Where `colcon build` puts the simulated robot: modules, executables in lib/<package>. Not for a real robot."""

from setuptools import setup

NAME = "dropgate_sim"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="DropGate engineering",
    maintainer_email="engineering@dropgate.example",
    description="LIBERO's simulated arm behind the topics of a real one, and the regression that runs on it",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "regress = dropgate_sim.regress:main",
            "sim_arm_node = dropgate_sim.sim_arm_node:main",
            "sim_robot_node = dropgate_sim.sim_robot_node:main",
        ]
    },
)
