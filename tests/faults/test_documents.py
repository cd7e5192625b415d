"""What the documents say can be done."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import hyperinit

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_a_foreign_siren_is_carried_over_as_documented():
    text = (DOCS / "siren-files.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = (block for block in blocks if "def carried_over" in block)
    names: dict = {}
    exec(code, names)
    torch.manual_seed(0)
    height, width = 20, 28
    first, hidden, last = (torch.nn.Linear(*s) for s in ((2, 16), (16, 16), (16, 3)))
    axes = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # (y, x), borders included
    shown = last(torch.sin(hidden(torch.sin(30 * first(grid))))).permute(2, 0, 1).clamp(0, 1)
    params = names["carried_over"](first, [hidden], last, height, width)
    torch.testing.assert_close(hyperinit.render(params, height, width), shown, atol=2e-5, rtol=0)


def test_every_promise_names_a_test_that_exists():
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((\.\./tests/[^)]+)\)", text)
    assert len(links) > 10 and all((DOCS / link).is_file() for link in links)
