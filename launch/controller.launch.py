# SPDX-License-Identifier: Apache-2.0
"""Controller and guard for one robot: `ros2 launch dropgate_bringup controller.launch.py robot:=ur5e artifact:=FOLDER`.

The controller is configured (it verifies and loads the artifact) and then activated; it moves nothing before somebody
arms it and gives it a task, and nothing at all in shadow mode. A real arm also needs `trust_store:=DIR` and
`station_policy:=FILE`: only what this station's keys have released moves. The robot's driver is started apart.
With `use_mock:=true` a simulated arm (`dropgate_sim`) with the same joints, on topics below /dropgate_sim, is started.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler, Shutdown
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import Command, IfElseSubstitution, LaunchConfiguration, NotSubstitution, ThisLaunchFileDir
from launch_ros.actions import LifecycleNode, Node
from launch_ros.descriptions import ParameterFile, ParameterValue
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    """Arguments, the two processes (three with a mock), and the two transitions of the controller."""
    arguments = [
        DeclareLaunchArgument("robot", description="parameter file, by its name in config/ without .yaml"),
        DeclareLaunchArgument("artifact", description="folder of a sealed artifact"),
        DeclareLaunchArgument("shadow", default_value="true", description="true: no command leaves the controller"),
        DeclareLaunchArgument("trust_store", default_value="", description="directory with keys.json, revoked.json"),
        DeclareLaunchArgument("station_policy", default_value="", description="JSON file of the station's demands"),
        DeclareLaunchArgument(
            "use_mock", default_value="false", description="true: a simulated arm instead of a driver"
        ),
        DeclareLaunchArgument(
            "lockstep", default_value="false", description="true: under a simulation whose time waits for commands"
        ),
    ]
    robot_file = [ThisLaunchFileDir(), "/config/", LaunchConfiguration("robot"), ".yaml"]
    mock_file = Command(["python3 -m dropgate_sim.mock_file ", *robot_file])  # only asked for if there is a mock
    station = ParameterFile(IfElseSubstitution(LaunchConfiguration("use_mock"), mock_file, robot_file))
    deployment = {
        "artifact": ParameterValue(LaunchConfiguration("artifact"), value_type=str),
        "enable_motion": ParameterValue(NotSubstitution(LaunchConfiguration("shadow")), value_type=bool),
        "trust_store": ParameterValue(LaunchConfiguration("trust_store"), value_type=str),
        "station_policy": ParameterValue(LaunchConfiguration("station_policy"), value_type=str),
        "lockstep": ParameterValue(LaunchConfiguration("lockstep"), value_type=bool),
    }
    mock = Node(
        package="dropgate_sim",
        executable="sim_arm_node",
        name="sim_arm",
        parameters=[station],
        output="screen",
        condition=IfCondition(LaunchConfiguration("use_mock")),
    )
    guard = Node(
        package="dropgate_controller",
        executable="guard_node",
        name="dropgate_guard",
        parameters=[station],
        output="screen",
    )
    controller = LifecycleNode(
        package="dropgate_controller",
        executable="controller_node",
        name="dropgate_controller",
        namespace="",
        parameters=[station, deployment],
        output="screen",
        on_exit=Shutdown(),
    )

    def request(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(controller), transition_id=transition))

    activate_once_configured = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=controller,
            start_state="configuring",
            goal_state="inactive",
            entities=[request(Transition.TRANSITION_ACTIVATE)],
        )
    )
    configure = request(Transition.TRANSITION_CONFIGURE)
    return LaunchDescription([*arguments, mock, guard, activate_once_configured, controller, configure])
