# SPDX-License-Identifier: Apache-2.0
"""One file per verb of the command line: its parser and its handler."""
