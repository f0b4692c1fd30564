# SPDX-License-Identifier: Apache-2.0
"""A simulated robot behind the topics of a real one (`sim_robot_node`), and the regression on it (`regress`)."""
