"""What the site takes from the code and the notebook when it is built (see `hooks` in mkdocs.yml).

- `::: hyperinit.NAME` is pointed at the module that really defines the name.
- `<!-- help: hyperinit -->` becomes the help of the command and of each of its subcommands, and
  `<!-- help: scripts/NAME.py -->` that of a script.
- `<!-- include: PATH -->` becomes a document from outside docs/, its headings one level lower.
- A notebook `guides/NAME.ipynb` becomes the page `guides/NAME.md`, with the outputs it was saved
  with.

Whatever cannot be made fails the build.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"

# Runs a console script as its entry point would, without its being installed.
RUN_ENTRY_POINT = """
import importlib, sys
module, _, function = sys.argv.pop(1).partition(":")
sys.argv[0] = "hyperinit"
sys.exit(getattr(importlib.import_module(module), function)())
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            notebook = json.loads(Path(file.abs_src_path or "").read_text(encoding="utf-8"))
            uri = file.src_uri.removesuffix(".ipynb") + ".md"
            files.append(File.generated(config, uri, content=notebook_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what a page takes from elsewhere."""
    markdown = re.sub(r"^<!-- include: (\S+) -->$", _include, markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^<!-- help: (\S+) -->$", _help, markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^::: hyperinit\.(\w+)$", _api, markdown, flags=re.MULTILINE)
    # What lies outside docs/ is no page of the site: its name stays, without a link.
    markdown = re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:tests|hyperinit)/[^)]*\)", r"\1", markdown)
    return re.sub(r"\]\(([^)\s:]+)\.ipynb\)", r"](\1.md)", markdown)  # to the page made of it


def notebook_markdown(notebook: dict[str, Any]) -> str:
    """The cells of a notebook, one after the other, with their saved outputs."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_output(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f"![Output of the cell above](data:{kind};base64,{''.join(data[kind]).strip()})"
    text = "".join(output.get("text") or data.get("text/plain") or "")
    return f"```text\n{text.rstrip()}\n```"


def _include(match: re.Match[str]) -> str:
    path = ROOT / match[1]
    if not path.is_file():
        raise PluginError(f"include: there is no {path}")
    return re.sub(r"^(#+ )", r"#\1", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _help(match: re.Match[str]) -> str:
    name = match[1]
    if name != "hyperinit":
        return _fenced(_output_of(name, "--help"))
    target = _entry_point()
    overview = _output_of("-c", RUN_ENTRY_POINT, target, "--help")
    listed = re.findall(r"^  ([\w-]+) {2,}", overview, flags=re.MULTILINE)
    if not listed:
        raise PluginError("help: `hyperinit --help` names no subcommands")
    sections = [_fenced(overview)]
    for command in listed:
        text = _output_of("-c", RUN_ENTRY_POINT, target, command, "--help")
        sections.append(f"### hyperinit {command}\n\n{_fenced(text)}")
    return "\n\n".join(sections)


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _entry_point() -> str:
    """MODULE:FUNCTION of the `hyperinit` command, as pyproject.toml has it."""
    text = PYPROJECT.read_text(encoding="utf-8")
    found = re.search(r'^hyperinit = "([\w.]+:\w+)"$', text, flags=re.MULTILINE)
    if not found:
        raise PluginError(f"help: {PYPROJECT} has no console script `hyperinit`")
    return found[1]


@cache
def _output_of(*arguments: str) -> str:
    """What Python prints with these arguments, in plain text 96 columns wide."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    plain = {"COLUMNS": "96", "NO_COLOR": "1", "PYTHON_COLORS": "0", "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **plain},
    )
    if run.returncode:
        raise PluginError(f"help: {arguments[-2:]} failed: {run.stderr.strip()[-500:]}")
    return run.stdout


def _api(match: re.Match[str]) -> str:
    """A directive for the object behind a public name, under that name."""
    name = match[1]
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    package = importlib.import_module("hyperinit")
    if name not in package.__all__:
        raise PluginError(f"api: hyperinit.{name} is not public")
    thing = getattr(package, name)
    where = f"{thing.__module__}.{thing.__qualname__}"
    return f"::: {where}\n    options:\n      heading: {name}\n      toc_label: {name}"
