# SPDX-License-Identifier: Apache-2.0
"""The rim between ROS 2 and `runtime`: `controller_node` drives, `guard_node` only ever takes permission away."""
