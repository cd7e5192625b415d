"""The structure that CONTRIBUTING.md promises."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "hyperinit").glob("*.py"))

# What each file of the library may not import at all, not even lazily.
SLOW_OR_FRAGILE = {"torchvision", "wandb", "higher", "matplotlib", "scipy", "skimage", "gradio"}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Top-level names of all modules a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.name)
def test_the_library_knows_nothing_of_what_uses_it(path):
    assert not imports(path) & {"baselines", "datasets", "scripts", "tests"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.name)
def test_heavy_packages_are_imported_lazily(path):
    assert not imports(path, top_level_only=True) & (SLOW_OR_FRAGILE - {"scipy"})


def test_only_meta_imports_higher():
    assert {path.name for path in LIBRARY if "higher" in imports(path)} == {"meta.py"}


@pytest.mark.parametrize("folder", ["baselines", "datasets"])
def test_nothing_imports_scripts(folder):
    for path in (ROOT / folder).glob("*.py"):
        assert "scripts" not in imports(path), path


def test_records_and_scores_need_no_torch():
    for name in ("protocol", "score"):
        assert "torch" not in imports(ROOT / "hyperinit" / f"{name}.py")


def test_the_core_runs_without_the_heavy_packages(tmp_path):
    # As beside a CPU-only torch, where importing torchvision fails.
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in sorted(SLOW_OR_FRAGILE))
    code = f"""
import sys
{blocked}
import torch, hyperinit
from hyperinit.cli import main
hyperinit.save_image(torch.rand(3, 8, 8), r"{tmp_path}/a.png")
sys.exit(main(["fit", r"{tmp_path}/a.png", "--width", "8", "--depth", "1"]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
