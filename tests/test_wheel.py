"""What the wheel has is enough for an init of one's own, from the function to the leaderboard.

`.ci/use_wheel` tries it with the wheel itself in an empty environment; here the package is copied
out of the checkout, whose other folders cannot be imported.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = """
import sys
for name in ("baselines", "datasets", "scripts", "tests", "benchmarks"):
    sys.modules[name] = None  # an ImportError
import hyperinit
from hyperinit.app.cli import main
assert hyperinit.__file__.startswith(sys.argv[1]), hyperinit.__file__
tiny = "--seeds 1 --limit 1 --image-size 16 --width 8 --depth 2 --workers 1".split()
ladder = "--budgets-epochs 1,2 --lrs 1e-3 --lr-images 1 --batch-factors".split()
own = ["benchmark", "my_init.py:mean_colour"]
assert main([*own, *tiny, *ladder, "", "--no-level-rates", "--out", "own.jsonl"]) == 0
assert main(["submit", "own.jsonl", "--by", "A user"]) == 0
assert main(["leaderboard", "own.submission.jsonl"]) == 0
"""


@pytest.mark.long
def test_the_guide_works_without_a_checkout_on_the_photographs_that_ship(tmp_path):
    shutil.copytree(ROOT / "hyperinit", tmp_path / "installed" / "hyperinit")
    (tmp_path / "work").mkdir()
    guide = (ROOT / "docs" / "guides" / "own-init.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "work" / "my_init.py").write_text(code)
    installed = str(tmp_path / "installed")
    done = subprocess.run(
        [sys.executable, "-c", RUN, installed],
        cwd=tmp_path / "work",
        env={**os.environ, "PYTHONPATH": installed, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "work" / "leaderboard" / "index.html").read_text()
    assert "mean_colour" in page and "test images astronaut" in done.stderr
