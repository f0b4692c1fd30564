# SPDX-License-Identifier: Apache-2.0
"""What happened, so that it can be looked at and done again: everything that crosses the controller's edge, in MCAP."""
