"""The structure that CONTRIBUTING.md promises: rooms, and which room may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from hyperinit.rooms import ROOMS, TORCH_FREE

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hyperinit"
LIBRARY = sorted(PACKAGE.rglob("*.py"))

# What no file of the library imports while it is itself imported.
SLOW_OR_FRAGILE = {"torchvision", "wandb", "higher", "matplotlib", "scipy", "skimage", "gradio"}

MAX_MODULES, MAX_LINES = 9, 400


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names of all modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def tops(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Top-level names of the modules that a file imports."""
    return {name.split(".")[0] for name in imports(path, top_level_only=top_level_only)}


def room_of(path: Path) -> str:
    """The sub-package that a file of the library is in; "" for the package's own files."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", LIBRARY, ids=shown)
def test_the_library_knows_nothing_of_what_uses_it(path):
    assert not tops(path) & {"baselines", "datasets", "scripts", "tests"}


@pytest.mark.parametrize("path", [p for p in LIBRARY if room_of(p)], ids=shown)
def test_a_room_imports_only_the_rooms_below_it(path):
    room = room_of(path)
    wanted = {name.split(".")[1] for name in imports(path) if name.startswith("hyperinit.")}
    assert wanted - {room, "rooms"} <= set(ROOMS[room].may_import)  # rooms.py: the table itself


def test_every_room_is_in_the_table_and_only_looks_down():
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found == set(ROOMS)
    above: set[str] = set()
    for name, room in reversed(ROOMS.items()):
        above.add(name)
        assert not above & set(room.may_import), name


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in LIBRARY if room_of(p)], ids=shown)
def test_no_private_name_is_imported_across_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hyperinit."):
            private = {a.name for a in node.names if a.name.startswith("_")}
            assert not private or (node.module or "").split(".")[1] == room_of(path), private


def test_no_room_is_crowded_and_no_module_long():
    for name in ROOMS:
        modules = [p for p in (PACKAGE / name).glob("*.py") if p.name != "__init__.py"]
        assert len(modules) <= MAX_MODULES, name
    lines = {shown(p): len(p.read_text(encoding="utf-8").splitlines()) for p in LIBRARY}
    assert {path: n for path, n in lines.items() if n > MAX_LINES} == {}


@pytest.mark.slow
@pytest.mark.parametrize("path", LIBRARY, ids=shown)
def test_no_function_is_long_without_a_reason(path):
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            reason = "# more than 60 lines: " in source.splitlines()[node.lineno - 1]
            assert length <= 60 or reason, f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", LIBRARY, ids=shown)
def test_heavy_packages_are_imported_lazily(path):
    assert not tops(path, top_level_only=True) & SLOW_OR_FRAGILE


@pytest.mark.parametrize("room", TORCH_FREE)
def test_what_is_read_without_torch_imports_none(room):
    for path in (PACKAGE / room).glob("*.py"):
        assert "torch" not in tops(path, top_level_only=True), path


@pytest.mark.slow
def test_only_the_outer_loss_imports_higher():
    users = {path.relative_to(PACKAGE).as_posix() for path in LIBRARY if "higher" in tops(path)}
    assert users == {"learn/loss.py"}


@pytest.mark.parametrize("folder", ["baselines", "datasets"])
def test_nothing_imports_scripts(folder):
    for path in (ROOT / folder).glob("*.py"):
        assert "scripts" not in tops(path), path


@pytest.mark.slow
def test_the_core_runs_without_the_heavy_packages(tmp_path):
    # As beside a CPU-only torch, where importing torchvision fails.
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in sorted(SLOW_OR_FRAGILE))
    code = f"""
import sys
{blocked}
import torch, hyperinit
from hyperinit.app.cli import main
hyperinit.save_image(torch.rand(3, 8, 8), r"{tmp_path}/a.png")
sys.exit(main(["fit", r"{tmp_path}/a.png", "--width", "8", "--depth", "1"]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
