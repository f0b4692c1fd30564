# SPDX-License-Identifier: Apache-2.0
"""Launch files name only what exists and hold no logic; every robot's parameters make sense to the code that uses them.

Read as text and data: `launch` comes with a ROS installation only. tests/test_launch_run.py starts them there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from compress.models.reference_config import ReferenceConfig
from compress.models.reference_specs import action_spec, observation_spec
from runtime.contract.chunk import ActionChunk
from runtime.control.state_map import StateMap
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import CartesianLimits, JointLimits
from runtime.safety.motion import Measured, Situation

REPO = Path(__file__).resolve().parent.parent
LAUNCH, PACKAGES = REPO / "launch", REPO / "ros2_ws" / "src"
FILES = sorted(LAUNCH.glob("*.launch.py"))
ROBOTS = sorted((LAUNCH / "config").glob("*.yaml"))
ARMS = [path for path in ROBOTS if path.stem != "libero_panda"]
ROS_PACKAGES = sorted(path.parent for path in PACKAGES.glob("*/package.xml"))
LOGIC = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.Match, ast.Lambda)
CARTESIAN = tuple(CartesianLimits.__dataclass_fields__)
DOF = {"abb_irb": 6, "fanuc_crx": 6, "fr3": 7, "kuka_lbr": 7, "ur10e": 6, "ur5e": 6, "xarm6": 6}


def stem(path: Path) -> str:
    """`controller` of controller.launch.py."""
    return path.name.split(".")[0]


def calls(path: Path, name: str) -> Iterator[dict[str, ast.expr]]:
    """Keyword arguments of every call of `name`; the first positional one is under ''."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield {**{k.arg: k.value for k in node.keywords if k.arg}, **({"": node.args[0]} if node.args else {})}


def processes(path: Path) -> list[dict[str, str]]:
    """package, executable and name of every node."""
    return [
        {key: ast.literal_eval(call[key]) for key in ("package", "executable", "name")}
        for kind in ("Node", "LifecycleNode")
        for call in calls(path, kind)
    ]


def arguments(path: Path) -> dict[str, str | None]:
    """Launch arguments with their defaults; None must be given."""
    found = {}
    for call in calls(path, "DeclareLaunchArgument"):
        default = call.get("default_value")
        found[ast.literal_eval(call[""])] = None if default is None else ast.literal_eval(default)
    return found


def console_scripts(package: str) -> dict[str, str]:
    """name -> module:function, from the package's setup.py."""
    (call,) = calls(PACKAGES / package / "setup.py", "setup")
    entries = ast.literal_eval(call["entry_points"])["console_scripts"]
    return {name.strip(): target.strip() for name, target in (entry.split("=") for entry in entries)}


def parameters(robot: Path, node: str = "dropgate_controller") -> dict[str, Any]:
    """The node's parameters with dotted names."""

    def flat(nested: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in nested.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return dict(flat(yaml.safe_load(robot.read_text(encoding="utf-8"))[node]["ros__parameters"], ""))


def limits(robot: Path) -> tuple[CartesianLimits, JointLimits]:
    """Both kinds, built by the code that the controller builds them with."""
    found = parameters(robot)
    arm = found["joints.names"][: len(found["limits.joint_low"])]
    joints = {name: found[f"limits.joint_{name}"] for name in ("low", "high", "velocity", "acceleration", "jerk")}
    cartesian = CartesianLimits(**{name: found[f"limits.{name}"] for name in CARTESIAN})
    return cartesian, JointLimits(tuple(arm), **joints, max_start_jump_rad=found["limits.max_start_jump_rad"])


def test_the_files_that_people_start_are_there() -> None:
    assert {stem(path) for path in FILES} == {"controller", "sim"}
    assert {stem(path) for path in ROBOTS} == {"libero_panda", *DOF}
    assert not (LAUNCH / "__init__.py").exists(), "it would hide ROS's own package `launch`"


@pytest.mark.parametrize("path", FILES, ids=stem)
def test_launch_file_only_wires(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == ["generate_launch_description"]
    modules = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"launch", "launch_ros", "lifecycle_msgs"}
    assert not [type(node).__name__ for node in ast.walk(tree) if isinstance(node, LOGIC)]


@pytest.mark.parametrize("path", FILES, ids=stem)
def test_every_executable_is_a_function_that_exists(path: Path) -> None:
    started = processes(path)
    assert started
    for process in started:
        scripts = console_scripts(process["package"])
        assert process["executable"] in scripts, f"{process['package']} has {sorted(scripts)}"
    for package in {process["package"] for process in started}:
        for module, function in (target.split(":") for target in console_scripts(package).values()):
            source = PACKAGES / package / Path(*module.split(".")).with_suffix(".py")
            assert source.is_file(), f"{package}: no {source.name}"
            body = ast.parse(source.read_text(encoding="utf-8")).body
            assert function in {node.name for node in body if isinstance(node, ast.FunctionDef)}, source


def test_arguments_are_those_of_the_documents_and_motion_is_never_the_default() -> None:
    controller, sim = (arguments(LAUNCH / f"{name}.launch.py") for name in ("controller", "sim"))
    assert controller == {
        "robot": None, "artifact": None, "shadow": "true", "require_regression": "true", "lockstep": "false",
        "use_mock": "false",
    }  # fmt: skip
    assert sim["robot"] in {path.stem for path in ROBOTS}
    (include,) = calls(LAUNCH / "sim.launch.py", "IncludeLaunchDescription")
    passed = include["launch_arguments"].func.value  # {...}.items()
    assert {ast.literal_eval(key) for key in passed.keys} == set(controller) - {"use_mock"}
    assert {name: sim[name] for name in ("artifact", "shadow", "require_regression")} == {
        name: controller[name] for name in ("artifact", "shadow", "require_regression")
    }


@pytest.mark.parametrize("robot", ROBOTS, ids=stem)
def test_parameters_reach_nodes_that_are_started(robot: Path) -> None:
    sections = yaml.safe_load(robot.read_text(encoding="utf-8"))
    nodes = {process["name"] for process in processes(LAUNCH / "controller.launch.py")} - {"sim_arm"}
    assert set(sections) - {"dropgate_robot"} == nodes, "a mock's own section is made by dropgate_sim.mock_file"
    assert ("dropgate_robot" in sections) == (robot in ARMS), "what the maker says, for check-robot"
    assert all(set(section) == {"ros__parameters"} for section in sections.values())


@pytest.mark.parametrize("robot", ROBOTS, ids=stem)
def test_robot_file_is_complete_and_agrees_with_itself(robot: Path) -> None:
    found, guard = parameters(robot), parameters(robot, "dropgate_guard")
    assert found["robot"] == robot.stem
    assert found["command.interface"] == ("joint_trajectory" if robot in ARMS else "twist")
    assert found["command.frame"] == found["tcp.frame"]
    names = found["joints.names"]
    assert len(names) == len(set(names))
    wanted = {source.removeprefix("joint.") for source in found["state"] if source.startswith("joint.")}
    assert wanted <= set(names)
    assert {name.split(".")[1] for name in found if name.startswith("cameras.")} == {"agentview", "wrist"}
    assert {found[f"cameras.{key}.transport"] for key in ("agentview", "wrist")} <= {"raw", "compressed"}
    for shared in ("command.topic", "joints.topic"):
        assert guard[shared] == found[shared]
    assert guard.get("require_enable", False) == found.get("require_enable", False)
    assert not {"artifact", "enable_motion", "require_regression"} & set(found), "those are the operator's to say"
    dof = len(found["limits.joint_low"])
    assert not [name for name in names[:dof] if "finger" in name], "the arm's joints come first"


@pytest.mark.parametrize("robot", ROBOTS, ids=stem)
def test_limits_are_accepted_by_the_code_that_enforces_them(robot: Path) -> None:
    cartesian, joints = limits(robot)
    assert len(joints.names) == DOF.get(robot.stem, 7)
    assert max(np.abs([*joints.low, *joints.high])) < 2 * np.pi
    given = {name.removeprefix("limits.") for name in parameters(robot) if name.startswith("limits.")}
    assert given == {*CARTESIAN, "joint_low", "joint_high", "joint_velocity", "joint_acceleration", "joint_jerk"}
    assert cartesian.linear_m_s**2 / (2 * cartesian.linear_m_s2) < 0.04, "a stop from full speed is short [m]"


@pytest.mark.parametrize("robot", ARMS, ids=stem)
def test_real_arms_start_slowly_and_with_somebody_there(robot: Path) -> None:
    cartesian, joints = limits(robot)
    assert cartesian.linear_m_s <= 0.25
    quarter = 5.26 / 4 if robot.stem == "fr3" else np.pi / 4  # of the data sheet's fastest joint, or 45 degrees/s
    assert max(joints.velocity) <= quarter
    assert parameters(robot)["require_enable"] is True
    size = np.subtract(cartesian.workspace_high, cartesian.workspace_low)
    assert size.max() <= (1.6 if robot.stem == "ur10e" else 1.2)
    assert cartesian.workspace_low[2] > 0.0


def test_no_libero_action_is_slowed_by_the_simulated_arms_limits() -> None:
    spec = action_spec(ReferenceConfig())
    values = np.where(np.arange(spec.horizon)[:, None] % 2, 1.0, -1.0) * np.ones(len(spec.names))
    here = Measured(10.0, {}, np.zeros(3), np.zeros(3))
    filter_ = SafetyFilter(spec, limits(LAUNCH / "config" / "libero_panda.yaml")[0])
    admitted = filter_.admit(ActionChunk.of(values, spec, 10.0), Situation(10.0, here, here))
    assert admitted.time_scale == 1.0
    assert np.allclose(np.abs(admitted.rows), [1.0, 1.0, 1.0, 10.0, 10.0, 10.0])  # [m/s, rad/s]


def test_simulated_arm_offers_the_state_that_the_built_in_policy_reads() -> None:
    StateMap(parameters(LAUNCH / "config" / "libero_panda.yaml")["state"], observation_spec(ReferenceConfig()))


@pytest.mark.parametrize("package", ROS_PACKAGES, ids=lambda path: path.name)
def test_package_is_what_colcon_and_rosdep_expect(package: Path) -> None:
    root = ElementTree.parse(package / "package.xml").getroot()
    assert root.get("format") == "3"
    assert root.findtext("name") == package.name
    version = re.search(r'^version = "(.*)"', (REPO / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert root.findtext("version") == version[1]
    assert root.findtext("license") == "Apache-2.0"
    # an invalid address makes colcon treat the package as an ordinary Python one, in silence
    assert re.fullmatch(r"[\w.+-]+@[\w-]+\.[\w.-]+", root.find("maintainer").get("email"))
    if (package / "setup.py").exists():
        assert root.findtext("export/build_type") == "ament_python"
        assert (package / "resource" / package.name).is_file()
        assert f'"{version[1]}"' in (package / "setup.py").read_text(encoding="utf-8")


def test_all_four_packages_lie_in_the_workspace() -> None:
    names = {path.name for path in ROS_PACKAGES}
    assert names == {"dropgate_bringup", "dropgate_controller", "dropgate_interfaces", "dropgate_sim"}
    assert (PACKAGES / "dropgate_bringup").resolve() == LAUNCH


def test_every_ros_import_is_a_declared_dependency() -> None:
    for package in ("dropgate_controller", "dropgate_sim"):
        root = ElementTree.parse(PACKAGES / package / "package.xml").getroot()
        declared = {element.text for element in root if element.tag.endswith("depend")}
        used = set()
        for path in (PACKAGES / package / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    used.add((node.module or "").split(".")[0])
                elif isinstance(node, ast.Import):
                    used |= {alias.name.split(".")[0] for alias in node.names}
        ros = {name for name in used if name.endswith(("_msgs", "_interfaces", "_srvs")) or name[:3] in ("rcl", "ame")}
        assert ros <= declared, f"{package}/package.xml lacks {sorted(ros - declared)}"
