# SPDX-License-Identifier: Apache-2.0
"""LIBERO is set up without questions, without downloads, and without importing it early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.sim.libero_setup import ASSET_FOLDERS, LiberoNotInstalled, LiberoSetup, MissingAssets
from compress.sim.renderer import choose_renderer


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter whose stdin is closed."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LIBERO_CONFIG_PATH", "LIBERO_ASSETS", "MUJOCO_GL")}
    repo = str(Path(__file__).resolve().parent.parent)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": repo, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def a_setup(searched: Path) -> LiberoSetup:
    return LiberoSetup(Path("package"), Path("config"), "osmesa", None, (searched,))


def test_importing_the_setup_loads_no_simulator() -> None:
    heavy = ("libero", "robosuite", "mujoco", "torch")
    modules = "libero_setup, suites, envs, expert, episode"
    result = run(f"from compress.sim import {modules}; import sys; print([m for m in {heavy!r} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.sim
def test_the_prompt_never_appears(tmp_path: Path) -> None:
    prepare = "from compress.sim.libero_setup import prepare_libero; print(prepare_libero().config)"
    result = run(f"{prepare}; import libero.libero.envs", HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    config = Path(result.stdout.strip())
    assert config.is_file(), f"stdout should be the path alone, found {result.stdout!r}"
    assert config.is_relative_to(tmp_path)
    assert result.stderr == "", "robosuite's and LIBERO's warnings are silenced"


@pytest.mark.sim
def test_a_configuration_of_the_user_is_kept(tmp_path: Path) -> None:
    mine = "bddl_files: /mine\nassets: /mine\nbenchmark_root: /mine\ninit_states: /mine\ndatasets: /mine\n"
    (tmp_path / "config.yaml").write_text(mine)
    result = run(
        "from compress.sim.libero_setup import prepare_libero; prepare_libero()", LIBERO_CONFIG_PATH=str(tmp_path)
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "config.yaml").read_text() == mine


def test_missing_assets_say_where_and_what_next(tmp_path: Path) -> None:
    (tmp_path / ASSET_FOLDERS[0]).mkdir()
    with pytest.raises(MissingAssets) as caught:
        a_setup(tmp_path).require_assets("libero_goal")
    text = str(caught.value)
    assert str(tmp_path) in text
    assert f"lacks {ASSET_FOLDERS[1]}" in text, "an interrupted download is not taken for a complete one"
    assert "LIBERO_ASSETS" in text
    assert "dropgate_tabletop" in text


@pytest.mark.sim
def test_named_assets_that_are_incomplete_are_refused(tmp_path: Path) -> None:
    from compress.sim.libero_setup import prepare_libero

    with pytest.raises(MissingAssets, match="not a complete LIBERO assets folder: lacks articulated_objects"):
        prepare_libero(tmp_path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.sim import libero_setup

    monkeypatch.setattr(libero_setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LiberoNotInstalled, match=r"'libero' is not installed\. Next: make install"):
        libero_setup.prepare_libero()


def test_the_users_renderer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "EGL ")
    assert choose_renderer() == "egl"
    assert os.environ["MUJOCO_GL"] == "EGL "


def test_a_renderer_is_chosen_and_left_to_mujoco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    chosen = choose_renderer()
    assert chosen in ("egl", "osmesa")
    assert os.environ["MUJOCO_GL"] == chosen
