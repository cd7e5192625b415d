"""Scripts in a checkout: bad input is one line before the work, and destroys nothing."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from conftest import smooth_image
from records import ladder

from benchmarks import gpu, signals
from hyperinit.images.save import save_image, webp
from hyperinit.record.records import append_record
from hyperinit.record.thumbnails import Thumbnails
from scripts import first_picture, seed_pictures


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory with records, their pictures, other records without, and a photograph."""
    monkeypatch.chdir(tmp_path)
    picture = webp(smooth_image(16))
    thumbnails = Thumbnails(Path("r.thumbnails"))
    for record in ladder("33", {1.0: 0.4, 4.0: 0.02}):
        append_record("r.jsonl", record)
        append_record("tuning.jsonl", ladder("33", {1.0: 0.4}, track="tuned-lr")[0])
        thumbnails.add(record, picture, picture, picture)
    Path("empty.jsonl").touch()
    save_image(smooth_image(16), "p.png")
    return tmp_path


def refused(script, line: str, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        script.main(line.split())
    assert stopped.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    return told


@pytest.mark.slow
def test_a_picture_of_records_is_drawn(place):
    assert first_picture.main(["r.jsonl", "-o", "new.png", "--inits", "33"]) == 0
    assert Path("new.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("r.jsonl -o r.jsonl", "must end in .png"),
        ("r.jsonl -o .", "must end in .png"),
        ("r.jsonl -o new.png --inits 33 nope", "unknown init 'nope'; known: 33"),
        ("r.jsonl -o new.png --image nope", "no pictures of fits of 'nope'"),
        ("empty.jsonl -o new.png", "empty.jsonl: no records"),
        ("tuning.jsonl -o new.png", "no pictures of fits"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_destroys_nothing(place, capsys, line, said):
    before = {path: path.read_bytes() for path in place.glob("*.*") if path.is_file()}
    assert said in refused(first_picture, line, capsys)
    assert {path: path.read_bytes() for path in place.glob("*.*") if path.is_file()} == before


def test_a_damaged_picture_is_named(place, capsys):
    for path in Path("r.thumbnails").iterdir():
        path.write_bytes(b"junk")
    told = refused(first_picture, "r.jsonl -o new.png", capsys)
    assert "the picture of 33, step 0: not an image" in told


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("p.png -o p.png", "is one of the inputs"),
        ("p.png -o nowhere/new.png", "cannot write to nowhere"),
        ("p.png -o new.png --budget-epochs nan", "--budget-epochs must be a finite number"),
    ],
)
def test_pictures_of_the_seed_are_refused_before_the_fits(place, capsys, line, said, monkeypatch):
    monkeypatch.setattr(seed_pictures, "pictures", lambda *_: pytest.fail("fitted"))
    assert said in refused(seed_pictures, line, capsys)


def test_a_place_without_room_for_the_record_of_a_gpu_costs_no_measurement(
    place, capsys, monkeypatch
):
    monkeypatch.setattr(gpu, "measure", lambda *_: pytest.fail("measured"))
    rehearse = functools.partial(refused, gpu, capsys=capsys)
    assert "cannot write to nowhere" in rehearse(line="--rehearse --out nowhere/new.json")
    assert "must end in .json" in rehearse(line="--rehearse --out p.png")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--smoke --signals chirp --inits nope", "unknown init 'nope'"),
        ("--signals chirp --seeds 0", "--seeds must be at least 1"),
    ],
)
def test_what_cannot_be_measured_of_signals_is_one_line(capsys, line, said):
    assert said in refused(signals, line, capsys)
