"""The notebook of the guides runs from its first cell to its last."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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
