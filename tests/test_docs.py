"""The documents: their links, the reference of the API, and the site that is made of them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hyperinit
from hyperinit.fitting.config import FitConfig
from hyperinit.rooms import ROOMS
from hyperinit.siren.network import CHUNK_PIXELS, OTHER_CHUNK_PIXELS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def links(text: str) -> list[str]:
    """Targets of Markdown links and pictures that are files; code blocks are passed over."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [t.partition("#")[0] for t in targets if not re.match(r"\w+:|#", t)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(page):
    # The site's own build does not see README.md and the like, which forges show.
    targets = links(page.read_text(encoding="utf-8"))
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_links_in_the_notebook_lead_somewhere():
    for path in DOCS.rglob("*.ipynb"):
        targets = links(path.read_text(encoding="utf-8"))
        assert targets and [t for t in targets if not (path.parent / t).exists()] == []


def test_files_that_documents_name_exist():
    # Inside code and sentences, as "scripts/report.py".
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue  # which also names what was there before
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"\b(?:docs|hyperinit|baselines|scripts)/[\w/-]+\.(?:md|png|py)\b", text)
        assert [name for name in named if not (ROOT / name).exists()] == [], page


def test_contributing_shows_the_rooms_as_the_code_has_them():
    rows = [
        f"| `{name}` | {room.what} | {', '.join(room.may_import) or '-'} |\n"
        for name, room in ROOMS.items()
    ]
    assert "".join(rows) in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_reference_of_the_api_has_every_public_name_once():
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: hyperinit\.(\w+)$", text, re.MULTILINE)) == sorted(
        hyperinit.__all__
    )


def test_the_page_of_options_has_every_option_of_a_fit():
    text = (DOCS / "reference" / "fit-options.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    named = {*re.findall(r"`(\w+)`", rows)}
    for_python = {"eval_epochs", "stop_mse"}  # said above the table
    assert {*FitConfig.__dataclass_fields__} - named == for_python


def test_the_page_of_options_says_how_many_pixels_are_looked_at_at_a_time():
    text = (DOCS / "reference" / "fit-options.md").read_text(encoding="utf-8")
    named = re.search(r"evaluated ([\d,]+) pixels at a time on a CPU, and ([\d,]+) on", text)
    counts = CHUNK_PIXELS["cpu"], OTHER_CHUNK_PIXELS
    assert named and named.groups() == tuple(f"{count:,}" for count in counts)


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_notebook_becomes_a_page_with_its_code_text_and_pictures(hooks):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {
            "cell_type": "code",
            "source": ["print(1)\n", "show()"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"image/png": "AAAA\n"}},
            ],
        },
    ]
    page = hooks.notebook_markdown({"cells": cells})
    assert page.startswith("# Title\nwords\n\n```python\nprint(1)\nshow()\n```\n")
    assert "```text\n1\n```" in page and "(data:image/png;base64,AAAA)" in page


@pytest.mark.long
def test_the_site_builds_strictly_and_asks_no_other_host_for_anything(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    cli = (tmp_path / "reference" / "cli.html").read_text(encoding="utf-8")
    assert "--target-mse" in cli and "--print-config" in cli
    assert "data:image/" in (tmp_path / "guides" / "first_init.html").read_text(encoding="utf-8")
    loads = re.compile(
        r"""<(?:script|img|iframe)[^>]+src=["']?(?:https?:)?//|<link[^>]+stylesheet"""
        r"""[^>]+href=["']?(?:https?:)?//"""
    )
    for page in tmp_path.rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page
