"""The notebook of the guides runs from its first cell to its last."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import hyperinit
from hyperinit.base.settings import tomllib

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "guides" / "first_init.ipynb"


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages, which are not ours to fix
def test_the_notebook_runs_and_ends_with_a_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert (tmp_path / "chelsea.safetensors").is_file()
    assert "image/png" in cells[-1].outputs[-1].data
    # What it says is what comes out: the hypernetwork starts and ends ahead of init 33.
    streams = [o for c in cells for o in c.outputs if o.output_type == "stream"]
    printed = "".join(stream.text for stream in streams if stream.name == "stdout")
    rows = {line.split(":")[0].strip(): line.split() for line in printed.splitlines()[1:]}
    start, end = ({name: float(row[i]) for name, row in rows.items()} for i in (-5, -2))
    assert start["hypernetwork"] > start["33"] and end["hypernetwork"] > end["33"]


def test_the_notebook_was_saved_after_running_in_order():
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_what_its_cells_use_exists_and_what_they_install_is_this_package():
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    code = "\n".join(cell.source for cell in cells)
    used = set(re.findall(r"\bhyperinit\.(\w+)", code))
    assert used >= {"fit", "load_pretrained"} and all(hasattr(hyperinit, name) for name in used)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f'source = "{project["name"]}"\n' in code and "%pip install --quiet {source}\n" in code
    for imported in re.findall(r"^import (\w+)|^from (\w+)", code, re.MULTILINE):
        name = "".join(imported)
        # Everything that a bare Colab lacks comes with the package itself.
        assert name in {*sys.stdlib_module_names, "hyperinit", "torch", "PIL", "skimage"}
    needs = " ".join(project["dependencies"])
    assert all(package in needs for package in ("torch", "pillow", "scikit-image"))
