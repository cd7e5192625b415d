"""Is the default rate of `hyperinit fit` right for photographs of all sizes? -> a record, a table.

    python benchmarks/default_fit.py --photos DIR         ten sizes, each at a grid of rates
    python benchmarks/default_fit.py --only 96x96 61x173
    python benchmarks/default_fit.py --report             runs nothing: record -> docs

Each fit is the command with its defaults, or with a rate that is the default times a factor. A fit
that is finished has a line in the record, and a run that was interrupted continues with those that
have none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from benchmarks.lines import Line, append_line, read_lines
from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import write_atomically
from hyperinit.report.blocks import update_blocks
from hyperinit.siren.store import PARAMS_KIND, read_info

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "records" / "default-fit.jsonl"
RECORDS = ROOT / "baselines" / "records"  # of the page's other tables
DOCUMENT = ROOT / "docs" / "results" / "fit-engine.md"
FINE, COARSE = (0.5, 0.7, 1.0, 1.4, 2.0), (0.6, 1.0, 1.6)


@dataclass(frozen=True)
class Case:
    """Photographs at one size.

    Attributes:
        photos: File names; scikit-image's where they are not in --photos. Small ones are several,
            as one seed of one photograph may end 2 dB above or below the next.
        budget_epochs: Of each fit; none: the command's own.
        factors: On the default rate; 1 is the default itself.
    """

    photos: tuple[str, ...]
    budget_epochs: float | None = None
    factors: tuple[float, ...] = FINE


SMALL = ("chelsea.png", "coffee.png", "rocket.jpg")

# Height x width in pixels.
CASES = {
    "32x32": Case(SMALL),
    "48x64": Case(SMALL),
    "96x96": Case(SMALL),
    "61x173": Case(SMALL),
    "224x224": Case(("coffee.png",)),
    "300x200": Case(("cat.jpg",)),
    "300x451": Case(("chelsea.png",), factors=COARSE),
    "512x512": Case(("astronaut.png",), factors=COARSE),
    "512x768": Case(("patio.jpg",), factors=COARSE),
    "872x1000": Case(("hubble_deep_field.jpg",), 2.0, COARSE),
    "3024x4032": Case(("patio.jpg",), 0.25, COARSE),
}


def _photo(name: str, photos: Path | None) -> Path:
    own = photos / name if photos else None
    if own is not None and own.is_file():
        return own
    import skimage

    shipped = Path(skimage.__path__[0]) / "data" / name
    if not shipped.is_file():
        raise InputError(f"{name}: neither in --photos nor a photograph of scikit-image")
    return shipped


def fit_once(size: str, case: Case, photo: Path, lr: float | None) -> Line:
    """Runs the command once; what it says, and the rate and the width it took."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "fit.safetensors"
        options = ["--size", size, "--threads", "1", "--json", "-o", str(out)]
        if case.budget_epochs is not None:
            options += ["--budget-epochs", str(case.budget_epochs)]
        if lr is not None:
            options += ["--lr", repr(lr)]
        code = "import sys; from hyperinit.app.cli import main; sys.exit(main())"
        run = subprocess.run(
            [sys.executable, "-c", code, "fit", str(photo), *options],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if run.returncode:
            return {"error": run.stderr.strip().splitlines()[-1]}
        said, info = json.loads(run.stdout), read_info(out, PARAMS_KIND)
    keys = ("init", "psnr", "mse", "epochs", "sec", "attempts")
    found = {key: said[key] for key in keys}
    return {**found, "lr": info["lr"], "width": info["siren"]["width"]}


def run(names: Sequence[str], photos: Path | None, record: Path) -> None:
    """Makes all fits that have no line in the record yet."""
    for size in names:
        case = CASES[size]
        for photo in (_photo(name, photos) for name in case.photos):
            done = _by_factor(read_lines(record), size, photo.name)
            for factor in sorted(case.factors, key=lambda f: f != 1):  # the default first
                if factor not in done:
                    # After restarts a default fit's rate is not the one that it began with.
                    lr = None if factor == 1 else factor * done[1]["lr"]
                    line = {"size": size, "photo": photo.name, "factor": factor}
                    line |= {"budget_epochs": case.budget_epochs or 8.0}
                    done[factor] = line | fit_once(size, case, photo, lr)
                    append_line(record, done[factor])
                print(json.dumps(done[factor]), flush=True)


def _by_factor(lines: Sequence[Line], size: str, photo: str) -> dict[float, Line]:
    return {n["factor"]: n for n in lines if n["size"] == size and n["photo"] == photo}


def table(lines: Sequence[Line]) -> str:
    """Markdown: a row for each size, means over its photographs; no rate is best that failed."""
    rows = [
        "| size | photographs | SIREN's width, init | epochs | default rate | PSNR, dB "
        "| best of the grid, dB (rate, times the default) | behind it, dB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, case in CASES.items():
        fits = [_by_factor(lines, size, photo) for photo in case.photos]
        fits = [own for own in fits if 1 in own]
        if not fits:
            continue
        tried = [factor for factor in case.factors if all(factor in own for own in fits)]
        psnr = {factor: fmean(own[factor].get("psnr", -inf) for own in fits) for factor in tried}
        best = max(psnr, key=lambda factor: psnr[factor])
        behind = f"{psnr[best] - psnr[1]:.2f}" if len(tried) > 1 else "-"
        grid = f"{psnr[best]:.2f} ({best:g})" if len(tried) > 1 else "-"
        default, (height, _, width) = fits[0][1], size.partition("x")
        names = ", ".join(own[1]["photo"] for own in fits)
        rates = fmean(own[1]["lr"] for own in fits)
        rows.append(
            f"| {height} x {width} | {names} | {default['width']}, {default['init']} "
            f"| {default['budget_epochs']:g} | {rates:.2g} | {psnr[1]:.2f} | {grid} | {behind} |"
        )
    return "\n".join(rows) + "\n"


def update_document(text: str, lines: Sequence[Line]) -> str:
    """The page with today's table in its block."""
    return update_blocks(text, RECORDS, DOCUMENT.name, {"default-fit": lambda: table(lines)})


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = Parser(
        prog="default_fit.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="has cat.jpg and patio.jpg")
    parser.add_argument("--only", nargs="+", default=list(CASES), metavar="HxW")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--report", action="store_true", help="run nothing; write the table")
    arguments = parser.parse_args(argv)
    try:
        for name in arguments.only:
            if name not in CASES:
                raise unknown_name("size", name, CASES)
        if not arguments.report:
            run(arguments.only, arguments.photos, arguments.record)
            return 0
        text = DOCUMENT.read_text(encoding="utf-8")
        write_atomically(DOCUMENT, update_document(text, read_lines(arguments.record)).encode())
    except InputError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
