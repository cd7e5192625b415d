"""The benchmark against peers: that every row fits, turns are taken, and tables say what is so."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import smooth_image

from benchmarks import peers
from benchmarks.peer import measure, report, run, table
from benchmarks.peer.choose import CHOOSERS, View
from benchmarks.peer.measure import Point, Task
from benchmarks.peer.others import CODECS, fewest_bytes
from benchmarks.peer.siren_fit import Recipe, SirenFit
from benchmarks.peer.table import PEERS
from hyperinit.base.errors import InputError
from hyperinit.images.coords import image_coords, image_to_rgb
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params

ROOT = Path(__file__).parent.parent
STEPS = 60


def task(most_steps: int = STEPS) -> Task:
    return Task(smooth_image(16), width=16, depth=2, limit_sec=2.0, most_steps=most_steps)


def first_points(name: str) -> list[Point]:
    """Of a row, until STEPS steps."""
    found: list[Point] = []
    for item in PEERS[name].points(task()):
        if isinstance(item, Point):
            found.append(item)
            if item.steps >= STEPS:
                break
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PEERS if n not in CODECS])
def test_every_peer_lowers_its_error(name: str) -> None:
    if PEERS[name].needs:
        pytest.importorskip(PEERS[name].needs)
    points = first_points(name)
    assert points[-1].steps == STEPS  # marks are met exactly, whatever the speed
    assert max(point.psnr for point in points) > points[0].psnr + 1
    assert [p.epochs for p in points] == sorted(p.epochs for p in points)


def test_short_fits_are_timed_three_times_and_too_long_ones_are_not_begun() -> None:
    seconds = iter([0.0, 0.5, 0.1, 0.2, 1.5])  # the first is off the clock

    def one(task: Task, steps: int) -> tuple[Point, dict[str, Any]]:
        return Point(steps, 0.0, next(seconds), 30.0), {}

    found = [item for item in measure.ladder(one, task(5000)) if isinstance(item, Point)]
    assert [(point.steps, point.sec) for point in found] == [(30, 0.2), (60, 1.5)]


@pytest.mark.parametrize("chooser", ["evos", "nint", "soft-mining", "expansive", "credit"])
def test_a_chooser_gives_as_many_pixels_as_asked_at_every_step(chooser: str) -> None:
    image = smooth_image(16)
    spec = named_init("33")
    generator = torch.Generator().manual_seed(0)
    params = sample_params(spec, spec.siren_config(8, 1), generator=generator)
    view = View(image, image_coords(image), image_to_rgb(image), params)
    made = CHOOSERS[chooser](view, 40, 200, generator)
    for step in range(25):
        coords, colours = made.next(step)
        assert coords.shape == (40, 2) and colours.shape == (40, 3)
        residuals = torch.randn(40, 3, generator=generator)
        made.weights(residuals)
        made.saw(residuals.square().mean(-1), torch.zeros(40, 2))
        if chooser in ("evos", "nint", "expansive"):  # without replacement
            assert len(coords.unique(dim=0)) == 40


def test_evos_takes_the_worst_pixels_and_others(monkeypatch: Any) -> None:
    image = smooth_image(16)
    residuals = torch.zeros(256, 3)
    residuals[:20] = 1
    monkeypatch.setattr(View, "residuals", lambda self: residuals)
    generator = torch.Generator().manual_seed(0)
    view = View(image, image_coords(image), torch.arange(768.0).view(256, 3), None)  # type: ignore[arg-type]
    made = CHOOSERS["evos"](view, 40, 200, generator)
    _, colours = made.next(0)
    pixels = (colours[:, 0] / 3).long()
    # Half of the batch: those with an error, or on its border, where the Laplacian is wrong too.
    assert (pixels[:20] < 36).all() and len(pixels) == 40


def test_what_is_only_looked_at_counts_as_visits() -> None:
    recipe = Recipe(chooser="nint", batch=0.25)
    fit = SirenFit(smooth_image(16), recipe, 8, 1, planned_steps=40)
    fit.take()
    looked = 1 + 2  # all pixels, and twice for the kernel
    assert fit.epochs == pytest.approx(0.25 + looked)


def test_muon_moves_hidden_matrices_by_orthogonal_steps() -> None:
    recipe = Recipe(lr=1e-3, muon_lr=0.01)
    fit = SirenFit(smooth_image(16), recipe, 16, 2, planned_steps=10)
    before = {name: value.clone() for name, value in fit.params.items()}
    fit.take()
    moved = {name: fit.params[name] - before[name] for name in before}
    sizes = torch.linalg.svdvals(moved["layers.1.weight"]) / 0.01
    assert 0.3 < float(sizes.median()) < 1.4  # five iterations come about so near to 1
    assert float(moved["layers.0.weight"].abs().max()) == pytest.approx(1e-3, rel=0.01)  # Adam's


def test_fewer_bytes_show_less() -> None:
    image = (smooth_image(32) + 0.05 * torch.rand(3, 32, 32)).clamp(0, 1)
    low, high = fewest_bytes(image, "jpeg", 30.0), fewest_bytes(image, "jpeg", 40.0)
    assert low is not None and high is not None
    assert low[0] < high[0] and low[1] >= 30 and high[1] >= 40
    assert fewest_bytes(image, "jpeg", 99.0) is None


def line(peer: str, points: list[list[Any]], **more: Any) -> dict[str, Any]:
    """One of a hand-made record."""
    made = {
        "format": run.FORMAT,
        "peer": peer,
        "what": f"what {peer} is",
        "kind": PEERS[peer].kind,
        "image": {"name": "a.png", "height": 96, "width": 96, "sha256": "a"},
        "width": 128,
        "depth": 4,
        "threads": 1,
        "base_mib": 300,
        "peak_mib": 340,
        "cpu_share": 0.99,
        "facts": {"lr": 1e-4, "batch_pixels": 144, "weights": 50_000},
        "points": points,
        "torch": "2",
        "machine": "x",
    }
    return {**made, **more}


OURS = line("ours", [[250, 4.0, 0.2, 34.0, None], [500, 8.0, 0.8, 38.0, None],
                     [1000, 16.0, 3.2, 42.0, None]])  # fmt: skip
PAPER = line("paper", [[0, 0.0, 0.0, 10.0, None], [500, 500.0, 40.0, 32.0, None],
                       [900, 900.0, 90.0, 36.0, None]])  # fmt: skip


@pytest.mark.parametrize(
    ("record", "level", "wanted"),
    [
        (OURS, 40.0, "1.6"),  # half the way between two fits, on a scale of logarithms
        (OURS, 30.0, "≤ 0.2"),  # the shortest fit is there
        (OURS, 44.0, "> 3.2"),
        (PAPER, 34.0, "60"),
        (PAPER, 10.0, "0"),  # a curve begins there
        (PAPER, 40.0, "> 90"),
    ],
)
def test_seconds_to_a_level(record: dict[str, Any], level: float, wanted: str) -> None:
    assert str(report.cost(record, level, report.SEC)) == wanted


def rows(text: str) -> dict[str, list[str]]:
    """First cell of each row of a table -> the others."""
    cells = [[c.strip() for c in r.strip("| ").split(" | ")] for r in text.splitlines() if "|" in r]
    return {row[0].partition(":")[0].strip("`"): row[1:] for row in cells}


def test_the_table_of_a_hand_made_record() -> None:
    (group,) = report.groups([OURS, PAPER])
    seconds = rows(report.seconds_table(group))
    assert seconds["ours"] == ["≤ 0.2", "0.283", "1.6", "> 3.2", "1"]
    assert seconds["paper"] == ["36.4", "73.5", "> 90", "> 90", "> 56.2"]
    steps = rows(report.steps_table(group))
    assert steps["ours"][:4] == ["38.00", "42.00", "-", "-"]
    assert steps["paper"][-1] == "340 (40)"


def test_several_photographs_are_averaged_and_bounds_stay_bounds() -> None:
    other = {"image": {**OURS["image"], "name": "b.png", "sha256": "b"}}
    slower = line("ours", [[p[0], p[1], 4 * p[2], *p[3:]] for p in OURS["points"]], **other)
    quick = line("paper", [[0, 0.0, 0.0, 10.0, None], [9, 9.0, 25.6, 40.0, None]], **other)
    (group,) = report.groups([OURS, PAPER, slower, quick])
    seconds = rows(report.seconds_table(group))
    assert seconds["ours"][2] == "3.2"  # of 1.6 and 6.4
    assert seconds["paper"][2] == "> 48 (1 of 2)"  # of > 90 and 25.6
    assert seconds["paper"][4] == "> 15 (1 of 2)"  # of > 90 / 1.6 and 25.6 / 6.4
    assert "photographs: a.png, b.png" in group.title


def test_what_may_not_be_compared_is_apart() -> None:
    assert len(report.groups([OURS, {**PAPER, "width": 256}])) == 2
    assert "1 of 1 fits had less than 90%" in report.groups([{**OURS, "cpu_share": 0.5}])[0].title


def test_documents_have_the_tables_of_the_committed_record() -> None:
    records = run.read_record(peers.RECORD)
    for document in report.DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert report.update_document(text, records, document) == text, (
            f"{document} is outdated: python benchmarks/peers.py --report"
        )


def test_a_block_that_is_unknown_or_does_not_end_is_named() -> None:
    with pytest.raises(InputError, match="not 'second'"):
        report.update_document("<!-- peers: second -->\n<!-- /peers -->\n", [OURS], "a.md")
    with pytest.raises(InputError, match=r"a\.md: 1 blocks of peers open, 0 of them end"):
        report.update_document("<!-- peers: seconds -->\n", [OURS], "a.md")


def test_a_chart_is_drawn() -> None:
    assert report.chart_png([OURS, PAPER]).startswith(b"\x89PNG")


def quick_flags(tmp_path: Path, *names: str) -> list[str]:
    save_image(smooth_image(16), tmp_path / "a.png")
    sizes = ["--size", "16", "--width", "8", "--depth", "1", "--seconds-limit", "0.2"]
    out = ["--out", str(tmp_path / "r.jsonl"), "--most-steps", "60", "--slice-sec", "0.05"]
    return ["--image", str(tmp_path / "a.png"), *sizes, *out, "--peers", *names]


@pytest.mark.long
def test_peers_take_turns_and_finished_ones_are_not_run_again(tmp_path: Path, capsys: Any) -> None:
    flags = quick_flags(tmp_path, "ours", "paper", "jpeg")
    assert peers.main(flags) == 0
    record = tmp_path / "r.jsonl"
    lines = run.read_record(record)
    assert sorted(one["peer"] for one in lines) == ["jpeg", "ours", "paper"]
    assert all(one["points"] and one["peak_mib"] >= one["base_mib"] > 0 for one in lines)
    # A run that was cut off while it wrote: the line is made again, the others are kept.
    whole = record.read_bytes()
    last = json.loads(whole.splitlines()[-1])["peer"]
    record.write_bytes(whole[:-20])
    capsys.readouterr()
    assert peers.main(flags) == 0
    shown = capsys.readouterr().err
    assert "2 peers are in" in shown and f"{last}: up to" in shown
    assert sorted(one["peer"] for one in run.read_record(record)) == ["jpeg", "ours", "paper"]


def test_a_peer_that_fails_is_one_line_and_the_others_go_on(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def broken(task: Task) -> Any:
        raise RuntimeError("no such thing\nat all")
        yield

    told: list[Any] = []
    replies = iter([1.0])
    monkeypatch.setitem(PEERS, "paper", table.Peer("", table.CURVE, broken))
    with pytest.raises(RuntimeError):
        run.work(PEERS["paper"], task(), replies, told.append)
    pipe = argparse.Namespace(recv=lambda: 1.0, send=told.append)
    run._serve(run.Job("paper", task(), 1), pipe)  # type: ignore[arg-type]
    assert told == [{"error": "RuntimeError: no such thing"}]


def test_a_missing_package_is_one_line(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        peers.main(quick_flags(tmp_path, "ours", "siren-pytorch"))
    shown = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in shown
    assert "pip install 'hyperinit[peers]', or leave it out with --peers ours" in shown
    monkeypatch.setitem(sys.modules, "siren_pytorch", None)
    with pytest.raises(InputError, match=r"pip install 'hyperinit\[peers\]'"):
        next(PEERS["siren-pytorch"].points(task()))


def test_a_peer_that_does_not_exist_is_named(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        peers.main(quick_flags(tmp_path, "papr"))
    assert stopped.value.code == 2
    assert "paper" in capsys.readouterr().err.splitlines()[-1]
