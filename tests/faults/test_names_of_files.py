"""Names of files, sets, inits and records that somebody else chose, from the disk to every page."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
from conftest import smooth_image

from hyperinit.app.cli import main
from hyperinit.images.save import save_image
from hyperinit.inits.rules import NAMED_INITS
from hyperinit.inits.start import spec_init
from hyperinit.photos.workload import NamedImage
from hyperinit.record.records import read_records
from hyperinit.siren.store import load_siren

NAMES = (
    "[x](javascript:alert(1))",
    "<script>alert(1)<",
    "<img src=x onerror=alert(1)>",
    "=cmd|'%C calc'!A0",
    "two\nlines",
    "\\textbackslash \\input{x} ^^5c",
    "100% & more #1 ${x}",
    "\u202egnp.exe\u200f",
    "half\udcff\udc80",
    "x" * 251,
    "\x1b[31mred\x07",
    "-o",
    "$(touch pwned) `id`",
)
HALF = os.fsdecode(b"half\xff")  # a name that is no UTF-8, as files from elsewhere have
FIT = ["--width", "8", "--depth", "1", "--budget-epochs", "1", "--init", "identity"]
MEASURE = "benchmark --quick --seeds 1 --image-size 8 --width 8 --depth 1 --budgets-epochs 1"
MEASURE += " --lrs 1e-3 --batch-pixels 16 --lr-images 1 --tuning-images tune"


def steering(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {"\n"}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "tune", HALF):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate(NAMES):
        save_image(smooth_image(8, seed), tmp_path / "p.png")
        os.replace(tmp_path / "p.png", tmp_path / "photos" / f"{name}.png")
    save_image(smooth_image(8, 99), tmp_path / "tune" / "t.png")
    return tmp_path


def test_a_set_of_hostile_names_is_fitted_shown_and_found_again(place, capsys):
    for finished in (0, len(NAMES)):
        assert main(["fit", "photos", "-o", "out", "--json", *FIT]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (said["fitted"], said["finished"]) == (len(NAMES) - finished, finished)
    names = [path.name for path in (place / "out").glob("*.safetensors")]
    assert len(names) == len(NAMES) and all(re.fullmatch(r"[\w.-]+", n, re.ASCII) for n in names)
    assert main(["gallery", "out", "--images", "photos", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == len(NAMES)
    shown = (place / "out" / "gallery.html").read_text(encoding="utf-8")
    assert "No original" not in shown and not steering(shown)
    check_html(shown)


def check_html(text: str) -> None:
    bare = re.sub(r'"[^"]*"', '""', text)
    assert not re.search(r"<script>alert|<img src=x|<iframe|<[^>]*\son\w+\s*=", bare)
    links = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert all(link.startswith(("data:image/", "#")) for link in links), links


@pytest.mark.slow
def test_records_of_hostile_names_are_read_again_and_published(place, capsys):
    inits = ["--inits", "33", *(f"{NAMES[i]}=22" for i in (0, 5, 8))]
    some = [f"photos/{NAMES[i]}.png" for i in (1, 3, 4, 5, 8)]
    for name, images in (("r", some), (HALF, some[:1])):
        line = [*MEASURE.split(), *inits, "--images", *images, "--out", f"{name}.jsonl"]
        assert main(line) == 0, capsys.readouterr().err
        assert "\nlines" not in capsys.readouterr().err
        inits = ["--inits", "33"]
    assert len({record.image for record in read_records([Path("r.jsonl")])}) == len(some) + 1
    assert main(["submit", "r.jsonl", "--by", "=cmd|'/C calc'!A0 \\input{x}"]) == 0
    assert main(["report", "r.jsonl", f"{HALF}.jsonl", "-o", "report"]) == 0
    files = ["r.submission.jsonl", f"{HALF}.jsonl"]
    assert main(["leaderboard", *files, "-o", "board"]) == 0
    for folder in ("report", "board"):
        check_html((place / folder / "index.html").read_text(encoding="utf-8"))
        for path in (place / folder).iterdir():
            if path.suffix in (".html", ".md", ".csv", ".tex"):
                text = path.read_text(encoding="utf-8")
                assert not steering(text), path
                assert path.suffix != ".md" or not re.search(r"\]\(javascript|<script>", text)
    cells = re.findall(r'(?:^|,)"?([^,"\n]*)', (place / "report/report.csv").read_text(), re.M)
    assert not [cell for cell in cells if cell[:1] in "=+@" and cell]
    tex = (place / "report" / "report.tex").read_text()
    assert (
        r"\input" not in tex and "^^" not in tex and not re.search(r"(?<!\\)[#&%$](?! )", tex[200:])
    )


def test_a_place_whose_name_is_no_utf8_holds_results_that_can_be_read(place, capsys):
    out = os.path.join(HALF, "out")
    for finished in (0, 1):
        assert main(["fit", "tune", "-o", out, "--json", *FIT]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["finished"] == finished
    (path,) = Path(out).glob("*.safetensors")
    assert load_siren(path)[0].config.width == 8
    assert main(["render", str(path), "-o", f"{HALF}/r.png", "--size", "8x8"]) == 0
    assert main(["export", str(path), "--to", "coin", "-o", f"{HALF}/c.pt"]) == 0
    assert main(["render", f"{HALF}/c.pt", "-o", f"{HALF}/again.png", "--size", "8x8"]) == 0


def test_names_are_of_what_a_record_can_hold():
    assert NamedImage(HALF, smooth_image(8), "0").name == r"half\udcff"
    assert spec_init(HALF, NAMED_INITS["33"], 8, 1).name == r"half\udcff"
    assert spec_init("größe", NAMED_INITS["33"], 8, 1).name == "größe"
