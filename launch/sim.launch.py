# SPDX-License-Identifier: Apache-2.0
"""The simulated arm under the same controller and guard: `ros2 launch dropgate_bringup sim.launch.py artifact:=FOLDER`.

In lockstep the simulation waits for the controller and all nodes live in its time. `mode:=realtime` keeps the
wall clock.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression, ThisLaunchFileDir
from launch_ros.actions import Node, SetParameter


def generate_launch_description() -> LaunchDescription:
    """The robot first, then controller.launch.py in the robot's time."""
    arguments = [
        DeclareLaunchArgument("robot", default_value="libero_panda", description="parameter file, by its name"),
        DeclareLaunchArgument("artifact", description="folder of a sealed artifact"),
        DeclareLaunchArgument("shadow", default_value="true", description="true: no command leaves the controller"),
        DeclareLaunchArgument("mode", default_value="lockstep", choices=["lockstep", "realtime"]),
        DeclareLaunchArgument("suite", default_value="dropgate_tabletop", description="simulated tasks"),
    ]
    robot = Node(
        package="dropgate_sim",
        executable="sim_robot_node",
        name="sim_robot",
        parameters=[{"mode": LaunchConfiguration("mode"), "suite": LaunchConfiguration("suite")}],
        output="screen",
        on_exit=Shutdown(),
    )
    lockstep = PythonExpression(["'", LaunchConfiguration("mode"), "' == 'lockstep'"])
    controller = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([ThisLaunchFileDir(), "/controller.launch.py"]),
        launch_arguments={
            "robot": LaunchConfiguration("robot"),
            "artifact": LaunchConfiguration("artifact"),
            "shadow": LaunchConfiguration("shadow"),
            "lockstep": lockstep,
        }.items(),
    )
    return LaunchDescription([*arguments, robot, SetParameter("use_sim_time", lockstep), controller])
