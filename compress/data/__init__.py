# SPDX-License-Identifier: Apache-2.0
"""Demonstrations: the neutral sample, LIBERO's HDF5 files as a set of samples, and batches by step number."""
