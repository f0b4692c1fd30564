# SPDX-License-Identifier: Apache-2.0
"""The closed loop without ROS: observations in, one safe command per tick out.

`ObservationBuffer` says what is known and how old it is, `Scheduler` which row of which chunk is due, `machine` what
may happen next, and `Controller.tick` puts them together.
"""
