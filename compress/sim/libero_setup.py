# SPDX-License-Identifier: Apache-2.0
"""The one module that owns LIBERO's set-up: its configuration file, its assets folder, its renderer and its noise.

`import libero.libero` asks a question on stdin when its `config.yaml` is missing, and the first environment downloads
assets. Both are settled here, before that import: `prepare_libero` writes the file and names the folder.
Source: hf-libero 0.1.4 (`libero/libero/__init__.py`), robosuite 1.4.0 (`macros.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from compress.atomic import write_atomic
from compress.sim.renderer import choose_renderer

ASSET_FOLDERS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "turbosquid_objects")
_CONFIG_NAME = "config.yaml"


class LiberoNotInstalled(ImportError):
    """The simulation extra is missing."""


class MissingAssets(FileNotFoundError):
    """A standard LIBERO suite was asked for, and no complete assets folder was found."""


@dataclass(frozen=True)
class LiberoSetup:
    """What `prepare_libero` settled.

    Attributes:
        package: the folder that holds LIBERO's `bddl_files` and `init_files`.
        config: the configuration file in use.
        renderer: the value of `MUJOCO_GL`.
        assets: a complete assets folder, or None (then only the embedded suite can be opened).
        searched: the folders that were looked at for assets, in order.
    """

    package: Path
    config: Path
    renderer: str
    assets: Path | None
    searched: tuple[Path, ...]

    def require_assets(self, suite: str) -> Path:
        """The assets folder, or MissingAssets with the fix."""
        if self.assets is not None:
            return self.assets
        looked = "; ".join(f"{folder} ({_what_is_missing(folder)})" for folder in self.searched)
        raise MissingAssets(
            f"suite {suite!r} needs LIBERO's assets (meshes and scenes, 206 MB, not in the wheel). "
            f"Looked at: {looked}. Next: pass the folder (assets=... or LIBERO_ASSETS=...), or download the Hugging "
            "Face dataset 'lerobot/libero-assets' into ~/.cache/libero/assets. 'dropgate_tabletop' needs none."
        )


def prepare_libero(assets: Path | None = None) -> LiberoSetup:
    """Makes `import libero.libero` silent and non-interactive. Call it before every such import; it is idempotent.

    Args:
        assets: a folder with LIBERO's assets; else `LIBERO_ASSETS`, the package's own folder, the hub's cache.

    Raises:
        LiberoNotInstalled: LIBERO or robosuite is not installed.
        MissingAssets: `assets` (or `LIBERO_ASSETS`) was given and is not a complete assets folder.
        NoRenderer: nothing here can draw offscreen.
    """
    package = _package_root("libero") / "libero"
    _silence_robosuite(_package_root("robosuite"))
    renderer = choose_renderer()
    config = _ensure_config(package)
    found, searched = _find_assets(assets, package)
    import libero.libero as root

    if found is not None:
        root._assets_path_cache = str(found)
    elif root._assets_path_cache is None:  # any folder keeps LIBERO from calling the hub; the embedded suite reads none
        root._assets_path_cache = str(Path(__file__).parent)
    return LiberoSetup(package, config, renderer, found, searched)


def _package_root(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise LiberoNotInstalled(f"package {name!r} is not installed. Next: make install (extra `sim`, then hf-libero)")
    return Path(next(iter(spec.submodule_search_locations)))


def _silence_robosuite(root: Path) -> None:
    """Stands in for the private macro file that robosuite warns about (and keeps it from logging to /tmp)."""
    name = "robosuite.macros_private"
    if "robosuite" in sys.modules or name in sys.modules or (root / "macros_private.py").exists():
        return
    macros = types.ModuleType(name)
    macros.CONSOLE_LOGGING_LEVEL = "ERROR"  # type: ignore[attr-defined]
    macros.FILE_LOGGING_LEVEL = None  # type: ignore[attr-defined]
    sys.modules[name] = macros


def _ensure_config(package: Path) -> Path:
    installation = hashlib.sha256(str(package).encode()).hexdigest()[:8]  # the file holds absolute paths into it
    default = Path.home() / ".cache" / "dropgate" / f"libero-{installation}"
    folder = Path(os.environ.setdefault("LIBERO_CONFIG_PATH", str(default))).expanduser()
    config = folder / _CONFIG_NAME
    if config.exists():
        return config
    paths = {
        "benchmark_root": package,
        "bddl_files": package / "bddl_files",
        "init_states": package / "init_files",
        "datasets": package.parent / "datasets",
        "assets": package / "assets",
    }
    text = "".join(f'{key}: "{value.as_posix()}"\n' for key, value in paths.items())
    write_atomic(config, lambda stream: stream.write(text.encode()))  # workers race here
    return config


def _find_assets(given: Path | None, package: Path) -> tuple[Path | None, tuple[Path, ...]]:
    named = given or (Path(os.environ["LIBERO_ASSETS"]) if os.environ.get("LIBERO_ASSETS") else None)
    if named is not None:
        missing = _what_is_missing(named)
        if missing:
            raise MissingAssets(
                f"{named} is not a complete LIBERO assets folder: {missing}. "
                f"Expected the folders {', '.join(ASSET_FOLDERS)}. Next: correct assets=... or LIBERO_ASSETS"
            )
        return named.resolve(), (named,)
    searched = (package / "assets", Path.home() / ".cache" / "libero" / "assets")
    return next((folder for folder in searched if not _what_is_missing(folder)), None), searched


def _what_is_missing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    lacking = [name for name in ASSET_FOLDERS if not (folder / name).is_dir()]
    return f"lacks {', '.join(lacking)}" if lacking else ""
