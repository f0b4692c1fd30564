# SPDX-License-Identifier: Apache-2.0
"""What stands between a policy's answer and the arm: limits, checks, and the only builder of commands.

A protective software layer, not a safety function: the vendor's rated functions (emergency stop, enabling device,
speed and space limits) stay in charge. Order of use: `Limits` of the station, `SafetyFilter`, `SafeTrajectory`.
"""
