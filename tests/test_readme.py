# SPDX-License-Identifier: Apache-2.0
"""The README tells the truth: its tree is the tree, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")])
# made by tools or by use, named in .gitignore where they are ours
NOT_OURS = {".git", "build", "dist", "runs", "artifacts", "shared", "libero_assets"}
DOTFILES_SHOWN = {".ci"}


def readme() -> str:
    return (REPO / "README.md").read_text(encoding="utf-8")


def fenced(text: str) -> list[str]:
    return re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def tree_entries(text: str) -> set[str]:
    """Top-level names of the fenced block that shows the tree: the one with a line for `compress/` and for `tests/`.

    A line is `name/   what it is`, with or without drawn branches; deeper levels are indented and ignored.
    """
    for block in fenced(text):
        lines = [re.sub(r"^[├└]──\s", "", line) for line in block.splitlines()]
        names = [name for line in lines if re.match(r"\.?\w", line) for name in _names_of(line)]
        if {"compress", "tests"} <= set(names):
            return set(names)
    raise AssertionError("README.md has no fenced block with lines for `compress/` and `tests/`")


def _names_of(line: str) -> list[str]:
    """`LICENSE CHANGELOG.md  what they are` holds two names; the text starts after two or more spaces or a `#`."""
    names = re.split(r"\s{2,}|\s#", line.strip())[0].replace(",", " ").split()
    return [name.strip("/").split("/")[0] for name in names]


def on_disk() -> set[str]:
    ignored = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--directory"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    hidden = NOT_OURS | {name.strip("/") for name in ignored}
    entries = {path.name for path in REPO.iterdir()} - hidden
    return {n for n in entries if (not n.startswith(".") or n in DOTFILES_SHOWN) and not n.endswith(".egg-info")}


def test_tree_lists_the_top_level() -> None:
    shown, there = tree_entries(readme()) - {"..."}, on_disk()
    shown = {name for name in shown if not name.startswith(".") or name in DOTFILES_SHOWN}
    assert shown == there, f"only in README: {sorted(shown - there)}; only on disk: {sorted(there - shown)}"


def commands(text: str) -> set[str]:
    """The verbs after `compress` or `python -m compress` in code."""
    code = "\n".join([*fenced(text), *re.findall(r"`([^`\n]+)`", text)])
    return set(re.findall(r"(?:^|[\s/`])compress ([a-z][a-z-]+)", code))


def test_every_command_exists() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "compress", "--help"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    verbs = commands(readme())
    assert verbs, "README.md shows no compress command"
    unknown = sorted(verb for verb in verbs if not re.search(rf"\b{re.escape(verb)}\b", result.stdout))
    assert not unknown, f"README.md shows commands that `compress --help` does not: {unknown}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPO).as_posix())
def test_relative_links_resolve(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)", text)
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    dead = sorted(target for target in local if not (document.parent / target).exists())
    assert not dead, f"{document.name} links to nothing: {dead}"


def test_make_targets_in_documents_exist() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    shown = set()
    for document in DOCUMENTS:
        code = "\n".join([*fenced(text := document.read_text(encoding="utf-8")), *re.findall(r"`([^`\n]+)`", text)])
        shown |= {word for line in re.findall(r"(?m)(?:^|[;&|] ?)make ((?:[a-z-]+ ?)+)", code) for word in line.split()}
    assert shown <= targets, f"documents name make targets that do not exist: {sorted(shown - targets)}"


def test_tree_reader_sees_names_only() -> None:
    text = "```text\ncompress/   offline half, see runtime/\n  cli.py\nLICENSE CHANGELOG.md  texts\ntests/\n```\n"
    assert tree_entries(text) == {"compress", "LICENSE", "CHANGELOG.md", "tests"}


def test_command_reader_sees_verbs() -> None:
    text = (
        "```bash\n.venv/bin/compress run recipes/quick.yaml\npython -m compress doctor\n```\nprose compress nothing\n"
    )
    assert commands(text) == {"run", "doctor"}
