# SPDX-License-Identifier: Apache-2.0
"""Given lists of blocks, by hand or published: what they are, how they become plans, and the recipes that use them."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_pi0
import family_pi05
import pytest
from test_plan import costs, scores
from typing_extensions import assert_never  # noqa: F401

from compress import cli
from compress.models.registry import FAMILIES
from compress.plan import Plan, PlanError, PlanSpec, make_plan
from compress.published import FILE, PublishedPlan, preset, presets
from compress.recipe import Recipe, RecipeError, load_recipe, parse_recipe, require_paths
from compress.scores import Subject
from compress.settings import SettingsError
