# SPDX-License-Identifier: Apache-2.0
"""One YAML file says what to compress, how far, and what it must prove; its resolved copy ships in the artifact.

`load_recipe` returns something fully valid or raises. Every default is written out in `Recipe.to_yaml`, and reading
that text gives the same recipe back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.dtr.spec import RecoverSpec
from compress.gate.spec import EXECUTION_FIELDS, GateSpec
from compress.plan_spec import PlanError, PlanSpec, latency_budget
from compress.published import preset, presets
from compress.recipe_sections import DataSection, ExportSection, GenerateSection, ModelSection, ProbeSection
from compress.settings import SettingsError, check_ranges, from_plain, number, to_plain
from compress.strict_yaml import YamlError, dump_yaml, load_yaml

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SEEDED = ("data.generate", "probe", "recover")  # sections whose seed, where it is not given, is the recipe's own
MAX_SEED = 3999  # of the generated demonstrations; higher ones belong to the stored states of the gate
PLACEHOLDER = "/path/to/"  # where a shipped recipe cannot know the path
BENCH_FIELDS = ("threads", "bench_runs")


class RecipeError(ValueError):
    """A recipe that cannot be run; the message gives file, key, value and what is allowed."""


def _generated() -> DataSection:
    return DataSection(generate=GenerateSection())


def _half() -> tuple[PlanSpec, ...]:
    return (PlanSpec(keep_fraction=0.5),)


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        name: lower case, digits, `.`, `_`, `-`; names the run folder.
        seed: of every section that gives none.
        plan: one entry per stack, or one mapping for one stack.
        output: the run folder; null is `runs/<name>` below the current folder.
    """

    name: str
    seed: int = number(0, low=0, high=MAX_SEED)
    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=_generated)
    probe: ProbeSection = field(default_factory=ProbeSection)
    plan: tuple[PlanSpec, ...] = field(default_factory=_half)
    recover: RecoverSpec = field(default_factory=RecoverSpec)
    export: ExportSection = field(default_factory=ExportSection)
    gate: GateSpec = field(default_factory=GateSpec)
    output: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if not NAME.fullmatch(self.name):
            raise SettingsError(
                f"`name` is {self.name!r}, expected lower case letters, digits, `.`, `_`, `-`, at most 63"
            )
        parts = [(item.role, item.part) for item in self.plan]
        if not parts or len(set(parts)) != len(parts):
            raise SettingsError(
                f"`plan` is for {[f'{r}/{p}' for r, p in parts]}, expected at least one stack, each once"
            )
        try:
            latency_budget(self.plan)
        except PlanError as error:
            raise SettingsError(f"`plan`: {error}") from error
        for at, item in enumerate(self.plan):
            if item.preset is not None and preset(item.preset).family != self.model.family:
                raise SettingsError(
                    f"`plan[{at}].preset` is for {preset(item.preset).family}, `model.family` is "
                    f"{self.model.family}: write its blocks as keep_blocks if they are meant for this policy"
                )

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return (self.output or Path("runs") / self.name).absolute()

    def to_plain(self) -> dict[str, Any]:
        """Every key and every default."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def to_yaml(self) -> str:
        """The resolved copy."""
        return dump_yaml(self.to_plain())

    def to_ship(self) -> str:
        """The resolved copy without what only says where and how it ran: what remains decides the result."""
        plain = self.to_plain()
        del plain["output"]
        plain["gate"] = {key: value for key, value in plain["gate"].items() if key not in EXECUTION_FIELDS}
        plain["export"] = {key: value for key, value in plain["export"].items() if key not in BENCH_FIELDS}
        plain["recover"] = self.recover.decisive()
        return dump_yaml(plain)


def parse_recipe(data: Mapping[str, Any], base: Path) -> Recipe:
    """Plain data -> recipe.

    Args:
        data: as read from YAML; `plan` may be one mapping or a list of them.
        base: folder that relative paths of inputs start from (`output` starts from the current folder).

    Raises:
        SettingsError: the first key that is unknown, missing, of the wrong type or out of range.
    """
    plain = dict(data)
    if isinstance(plain.get("plan"), Mapping):
        plain["plan"] = [plain["plan"]]
    if isinstance(plain.get("plan"), (list, tuple)):
        plain["plan"] = [_with_preset(entry) for entry in plain["plan"]]
    seed = plain.get("seed", 0)
    if isinstance(seed, int) and 0 <= seed <= MAX_SEED:
        for path in SEEDED:
            plain = _with_seed(plain, path.split("."), seed)
    recipe: Recipe = from_plain(Recipe, plain)
    return _rooted(recipe, base)


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RecipeError: what is wrong, in one sentence.
    """
    try:
        return parse_recipe(load_yaml(path), path.resolve().parent)
    except SettingsError as error:
        raise RecipeError(f"{path}: {error}") from error
    except YamlError as error:
        raise RecipeError(str(error)) from error


def require_paths(recipe: Recipe) -> None:
    """Every path of a shipped recipe that only the user can know has been set.

    Raises:
        RecipeError: names the keys that still hold the placeholder.
    """
    paths = {"model.checkpoint": recipe.model.checkpoint, "data.path": str(recipe.data.path or "")}
    unset = [f"`{key}` is {path!r}" for key, path in paths.items() if path.startswith(PLACEHOLDER)]
    if unset:
        raise RecipeError(f"recipe {recipe.name}: {' and '.join(unset)}, a placeholder: write your own folder there")


def _with_preset(entry: Any) -> Any:
    """One plan, with the stack of the preset that it names where it says none itself."""
    name = entry.get("preset") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or name not in presets():
        return entry
    return {"role": preset(name).role, "part": preset(name).part, **entry}


def _with_seed(data: dict[str, Any], path: list[str], seed: int) -> dict[str, Any]:
    """`data` with `seed` set in the section at `path`, if the section is a mapping (or absent) and gives none."""
    section = data.get(path[0], {} if len(path) == 1 else {"generate": {}})
    if not isinstance(section, Mapping):
        return data
    if len(path) > 1:
        inner = _with_seed(dict(section), path[1:], seed) if path[1] in section else dict(section)
        return {**data, path[0]: inner}
    return {**data, path[0]: {"seed": seed, **section}}


def _rooted(recipe: Recipe, base: Path) -> Recipe:
    """Relative input paths made absolute."""
    data, model, gate = recipe.data, recipe.model, recipe.gate
    if data.path is not None:
        data = replace(data, path=base / data.path)
    if model.checkpoint != "builtin":
        model = replace(model, checkpoint=str(base / Path(model.checkpoint).expanduser()))
    if gate.libero_assets is not None:
        gate = replace(gate, libero_assets=base / gate.libero_assets)
    return replace(recipe, data=data, model=model, gate=gate)
