"""The race is fair and its fits are those of `fit`; the page of it survives whatever is dropped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from conftest import assert_same, shake_heads, smooth_image, tiny_hyper
from PIL import Image
from test_page import Elements

from hyperinit import fit, load_image, load_params, save_image
from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.demo import server
from hyperinit.demo.arena import Arena, arena
from hyperinit.demo.board import board, verdict
from hyperinit.demo.page import live
from hyperinit.demo.race import Lane, race, race_config
from hyperinit.fitting.config import FitConfig, rate_of, suited
from hyperinit.images.errors import error_map
from hyperinit.images.pixels import image_hash, square_crop
from hyperinit.inits.rules import NAMED_INITS, YARDSTICKS
from hyperinit.inits.start import Init, model_init, spec_init
from hyperinit.learn.reptile import REPTILE, ReptileConfig
from hyperinit.learn.state import TrainState, new_state, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren.store import CHECKPOINT_NAME

CONFIG = FitConfig(budget_epochs=6, batch_pixels=64, eval_epochs=(0.5, 1, 2, 3, 4, 5))


def inits() -> list[Init]:
    named = [spec_init(n, NAMED_INITS[n], 16, 2) for n in YARDSTICKS]
    return [*named, model_init("hyper", shake_heads(tiny_hyper()))]


def fits_alone(image: torch.Tensor, config: FitConfig) -> dict:
    found = {}
    for init in inits():
        found[init.name] = fit(init.start(image, config.seed), image, config)
    return found


def without_sec(result) -> list[str]:
    return [repr(replace(point, sec=0.0)) for point in result.curve]


def test_every_fit_of_a_race_is_the_one_that_fit_makes(image):
    *_, lanes = race(image, inits(), CONFIG, target=0.0)
    alone = fits_alone(image, CONFIG)
    assert (
        [lane.init for lane in lanes]
        == list(alone)
        == ["paper", "22", "33", "identity", "waves", "hyper"]
    )
    for lane in lanes:
        assert lane.over
        assert_same(lane.result.params, alone[lane.init].params)
        assert without_sec(lane.result) == without_sec(alone[lane.init])


def test_nobody_is_ever_more_than_a_turn_ahead(image):
    last = None
    for lanes in race(image, inits(), CONFIG, target=0.0):
        epochs = [lane.now.epochs for lane in lanes if not lane.over]
        assert not epochs or max(epochs) - min(epochs) <= 1 + 1e-9
        same = [lane is before for lane, before in zip(lanes, last or lanes, strict=True)]
        assert last is None or same.count(False) == 1  # one at a time
        last = lanes
    # What the hypernetwork's start costs is where its curve begins, and part of its budget.
    hyper = last[-1].result.curve
    assert hyper[0].epochs == inits()[-1].epochs(image) > 0 and hyper[0].sec > 0
    assert hyper[-1].epochs == CONFIG.budget_epochs


def test_a_fit_is_over_at_the_first_evaluation_at_the_target(image):
    alone = fits_alone(image, CONFIG)
    target = alone["33"].curve[3].mse
    *_, lanes = race(image, inits(), CONFIG, target)
    for lane in lanes:
        curve = without_sec(lane.result)
        assert curve == without_sec(alone[lane.init])[: len(curve)]
        assert all(point.mse > target for point in lane.result.curve[:-1])
        assert lane.now.mse <= target or lane.now.epochs == CONFIG.budget_epochs
        hit = lane.hit(target)
        assert hit is None or hit == lane.now == lane.result.kept
    assert next(lane for lane in lanes if lane.init == "33").hit(target) is not None


def test_a_fit_that_diverges_is_out_and_the_others_go_on(image):
    def broken(image, seed):
        return inits()[0].start(image, seed).params.map(lambda value: value * torch.nan)

    *_, lanes = race(image, [Init("broken", broken), inits()[2]], CONFIG, target=0.0)
    assert lanes[0].result.diverged and len(lanes[0].result.curve) == 1
    assert lanes[1].now.epochs == CONFIG.budget_epochs
    assert "diverged" in board(image, lanes, CONFIG)


def test_the_budget_of_a_race_is_checked():
    config = race_config(1e-3, 2.5)
    assert config.eval_epochs == (0.25, 0.5, 1, 2) and config.budget_epochs == 2.5
    for lr, budget, text in ((-1, 8, "lr"), (1e-3, 1e9, "at most"), (1e-3, None, "budget_epochs")):
        with pytest.raises(InputError, match=text):
            race_config(lr, budget)


def ring() -> Arena:
    return Arena(inits(), size=16)


def dropped(path: Path | None, budget: float = 2.0) -> list[tuple[str, list[str]]]:
    return list(live(path and str(path), ring(), str(path.parent if path else ""), "", budget))


def test_the_board_has_every_picture_curve_and_target_and_needs_no_colour(tmp_path):
    save_image(smooth_image(24), tmp_path / "a.png")
    html, files = dropped(tmp_path / "a.png")[-1]
    elements = Elements(html)
    alts = [attributes["alt"] for tag, attributes in elements.found if tag == "img"]
    assert alts[0].startswith("the image")
    shown = [
        text
        for init in inits()
        for text in (
            f"{init.name} at step 0",
            f"{init.name} now",
            f"where {init.name} is wrong now",
        )
    ]
    assert alts[1:] == shown
    targets = re.findall(r'<text class="aim"[^>]*>([^<]*)', html)
    assert targets == ["0.08", "0.02", "0.0008"]
    dashes = re.findall(r'<path class="line" stroke-dasharray="([^"]*)"', html)
    assert len(set(dashes)) == 6  # an init has one, wherever its line is drawn
    image = square_crop(load_image(tmp_path / "a.png"), 16)
    for init in inits():  # the rate that each fit chose is in the table
        chosen = rate_of(race_config(None, 2.0), init.start(image, 0), 16 * 16)
        assert f"<td>{chosen:.2g}</td>" in html
    assert [Path(file).name for file in files] == [f"{i.name}-siren.safetensors" for i in inits()]


def test_files_of_a_race_load_back_and_render(tmp_path, monkeypatch):
    save_image(smooth_image(24), tmp_path / "a.png")
    kept = tmp_path / "kept"
    kept.mkdir()
    for _, files in live(str(tmp_path / "a.png"), ring(), str(tmp_path), "", 2):
        for file in files:  # while the race is on, as a page copies them
            shutil.copy(file, kept)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.png", "kept"}
    names = sorted(path.name for path in kept.iterdir())
    assert names == sorted(f"{init.name}-siren.safetensors" for init in inits())
    for path in kept.iterdir():
        params, info = load_params(path)
        assert params.config.width == 16 and info["images"][0]["width"] == 16
        assert main(["render", str(path), "-o", str(tmp_path / "r.png")]) == 0
        assert load_image(tmp_path / "r.png").shape == (3, 16, 16)


def test_the_map_of_errors_is_black_where_a_picture_is_right_and_white_where_it_is_far_off():
    image = torch.full((3, 4, 4), 0.5)
    picture = image.clone()
    picture[:, 0, 0] += 0.05
    picture[:, 1, 1] -= 0.3
    picture[:, 2, 2] = torch.nan
    shown = error_map(image, picture)
    assert shown[:, 3].eq(0).all() and 0 < shown[:, 0, 0].sum() < 3
    assert shown[:, 1, 1].eq(1).all() and shown[:, 2, 2].eq(1).all()
    with pytest.raises(InputError, match="cannot be compared"):
        error_map(image, picture[:, :2])


def test_several_images_race_one_after_the_other_and_all_stay_on_the_page(tmp_path):
    names = ["a.png", "<b>bad.png", "c.png"]
    for seed, name in enumerate(names):
        save_image(smooth_image(24, seed), tmp_path / name)
    (tmp_path / names[1]).write_bytes(b"junk")
    paths = [str(tmp_path / name) for name in names]
    seen, kept = [], set()
    for html, files in live(paths, ring(), str(tmp_path), "", 1):
        elements = Elements(html)
        assert "b" not in {tag for tag, _ in elements.found}
        title = re.search(r"Image (\d) of 3", elements.text)
        seen.append(int(title[1]))
        assert all(load_params(file) for file in files)  # those of earlier images too
        kept = {Path(file).name for file in files}
    assert sorted(seen) == seen and set(seen) == {1, 2, 3}
    assert [tag for tag, _ in elements.found].count("details") == 2
    assert "not an image" in elements.text and elements.text.count("None reached MSE") == 2
    wanted = {f"{i}-{init.name}-siren.safetensors" for i in (1, 3) for init in inits()}
    assert kept == wanted


def test_a_rate_is_as_it_was_typed_and_none_where_nothing_was(tmp_path):
    save_image(smooth_image(24), tmp_path / "a.png")

    def shown(lr: str) -> str:
        return list(live(str(tmp_path / "a.png"), ring(), str(tmp_path), lr, 1))[-1][0]

    assert shown(" 0.00123 ").count("<td>0.0012</td>") == len(inits())
    assert "<td>0.0012</td>" not in shown("  ")
    for wrong in ("0", "fast", "-1"):
        assert "the page: lr must be" in shown(wrong)


def test_too_many_images_are_one_line(tmp_path):
    ((html, _),) = live(["x.png"] * 9, ring(), str(tmp_path), "", 1)
    assert "9 images are too many" in html


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("<img src=x onerror=alert(1)>.png", b"junk", "not an image"),
        ("empty.png", b"", "not an image"),
        ("dot.png", (1, 1), "1 x 1 pixels; at least"),
        ("thin.png", (300, 2), "2 x 300 pixels; at least"),
        ("bomb.png", (9000, 9000), "over the limit of 50 million pixels"),
    ],
)
def test_a_bad_file_is_one_line_on_the_page(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.new("1", content).save(path)
    ((html, files),) = dropped(path)
    elements = Elements(html)
    assert [tag for tag, _ in elements.found] == ["p"] and not files
    assert message in elements.text and str(tmp_path) not in html


def test_no_file_or_a_bad_number_is_one_line_too(tmp_path):
    assert "Drop an image first" in dropped(None)[0][0]
    save_image(smooth_image(24), tmp_path / "a.png")
    assert "budget_epochs must be" in dropped(tmp_path / "a.png", -1)[0][0]


def test_the_page_says_when_the_hypernetwork_knows_the_image(tmp_path):
    photo = smooth_image(24)
    save_image(photo, tmp_path / "a.png")
    seen = frozenset({image_hash(load_image(tmp_path / "a.png"))})
    known = replace(ring(), inits=[replace(inits()[-1], train_hashes=seen)])
    html = next(live(str(tmp_path / "a.png"), known, str(tmp_path), "", 1))[0]
    assert "hyper was trained on this image" in html


@pytest.mark.slow
def test_two_races_at_once_do_not_mix(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        save_image(smooth_image(24, seed), path)

    def run(path: Path) -> Iterator[list[Lane]]:
        return race(load_image(path), inits(), CONFIG, target=0.0)

    # Turn by turn; a fit that is given up ends its race a few turns earlier.
    turns = list(zip_longest(*map(run, paths)))
    for at, path in enumerate(paths):
        lanes = [turn[at] for turn in turns if turn[at] is not None][-1]
        *_, alone = run(path)
        for a, b in zip(lanes, alone, strict=True):
            assert_same(a.result.params, b.result.params)


def made_up(hits: dict[str, float | None], image) -> list[Lane]:
    *_, lanes = race(image, inits()[:2], replace(CONFIG, budget_epochs=1), target=0.0)
    made = []
    for lane, (name, hit) in zip(lanes, hits.items(), strict=True):
        curve = list(lane.result.curve)
        if hit is not None:
            curve[-1] = replace(curve[-1], epochs=hit, mse=1e-4)
        made.append(replace(lane, init=name, result=replace(lane.result, curve=tuple(curve))))
    return made


def test_the_verdict_names_the_first_or_says_that_there_is_none(image):
    assert verdict(made_up({"a": 3.0, "b": 2.0}, image), CONFIG).endswith("after 2 epochs: b.")
    # Errors are read once an epoch: a part of a step is no lead.
    assert verdict(made_up({"a": 3.0, "b": 3.01}, image), CONFIG).endswith(": a and b.")
    assert verdict(made_up({"a": None, "b": None}, image), CONFIG).startswith("None reached MSE")
    lanes = [replace(lane, over=False) for lane in made_up({"a": None, "b": None}, image)]
    assert verdict(lanes, CONFIG) == "Epoch 1.0 of at most 6"


def test_a_checkpoint_sets_the_sizes_and_without_one_the_pretrained_takes_part(tmp_path):
    without = arena()
    assert [init.name for init in without.inits] == [
        "paper",
        "22",
        "33",
        "identity",
        "waves",
        "hyper",
    ]
    assert without.size == 96 and without.inits[-1].train_hashes
    state = TrainState(HYPERNETWORK, shake_heads(tiny_hyper()), torch.optim.AdamW([torch.zeros(1)]))
    save_state(tmp_path / CHECKPOINT_NAME, state, TrainConfig(size=24), train_hashes=["abc"])
    found = arena(tmp_path)
    assert found.size == 24 and arena(tmp_path, 12).size == 12
    sizes = {init.start(smooth_image(24), 0).params.config.width for init in found.inits}
    assert sizes == {16} and found.inits[-1].name == "hyper"
    assert found.inits[-1].train_hashes == {"abc"}


def test_a_run_of_any_kind_takes_part_and_so_does_what_comes_with_the_package(tmp_path):
    own = ReptileConfig(size=24, width=16, depth=2, read_numbers=3)
    save_state(tmp_path / CHECKPOINT_NAME, new_state(REPTILE, own), own, train_hashes=["abc"])
    found = arena(tmp_path)
    assert found.size == 24 and found.inits[-1].name == "learned"
    assert found.inits[-1].train_hashes == {"abc"}
    image = smooth_image(24)
    config = replace(CONFIG, budget_epochs=1)
    *_, lanes = race(image, found.inits, config, target=0.0)
    # Nobody proposes a rate for it: the fit chooses, as it does without a page.
    start = found.inits[-1].start(image, 0)
    assert lanes[-1].result.lr == rate_of(suited(config, start), start, 24 * 24)
    linear = arena("linear-96")
    assert linear.size == 96 and linear.inits[-1].train_hashes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "hyperinit demo needs gradio: pip install 'hyperinit[demo]'"),
        (["--size", "2"], "--size must be at least 8"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--budget-epochs", "-1"], "--budget-epochs must be"),
        (["--port", "99999"], "--port must be at least 1 and at most 65535"),
        (["--checkpoint", "nowhere"], "nowhere: no such file"),
        (["--checkpoint", ""], "checkpoint.safetensors: no such file"),
    ],
)
def test_what_stops_the_command_is_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--no-browser", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("hyperinit") and f"error: {message}" in error and error.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_page_in_one_line(monkeypatch, capsys, number, code):
    closed = []
    page = SimpleNamespace(
        launch=lambda **_: (None, "http://here", None), close=lambda **_: closed.append(True)
    )
    monkeypatch.setattr(server, "_import_gradio", lambda folder: MagicMock())
    monkeypatch.setattr(server, "page_of", lambda *_: page)
    monkeypatch.setattr(server, "race", lambda *_: ())
    monkeypatch.setattr("time.sleep", lambda _: signal.raise_signal(number))
    assert main(["demo", "--no-browser", "--size", "8"]) == code
    assert capsys.readouterr().err.splitlines()[-1] == "stopped" and closed


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of packages that only this test imports
def test_the_real_page_races_to_the_end(tmp_path):
    pytest.importorskip("gradio")
    client_of = pytest.importorskip("gradio_client")
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "hyperinit.app.cli", "demo", "--no-browser", "--threads", "1"]
    server = subprocess.Popen(
        [*command, "--size", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
    )
    try:
        url = server.stdout.readline().split()[0]
        assert url.startswith("http://127.0.0.1:")
        users = [client_of.Client(url, verbose=False, download_files=tmp_path) for _ in range(2)]
        bad, good = tmp_path / "bad.png", tmp_path / "good.png"
        bad.write_bytes(b"junk")
        save_image(smooth_image(24), good)
        for user, paths in zip(users, ([bad], [good, good]), strict=True):
            user.predict([client_of.handle_file(path) for path in paths], api_name="/choose")
        # The second one leaves the rate as its page shows it at first.
        typed: list[dict[str, str]] = [{"lr": "1e-3"}, {}]
        jobs = [
            user.submit(**rate, budget=4, api_name="/run")
            for user, rate in zip(users, typed, strict=True)
        ]
        for job in jobs:
            job.result(timeout=300)
        assert "not an image" in jobs[0].outputs()[-1][0]
        html, files = jobs[1].outputs()[-1]
        assert "epochs to 0.0008" in html and "Image 2 of 2" in html
        assert len(files["value"]) == 2 * len(arena().inits)
        for path in files["value"]:
            assert load_params(path)[0].config.width == 128
    finally:
        server.send_signal(signal.SIGINT)
        rest = server.communicate(timeout=60)[0]
    assert server.returncode == 130 and "Traceback" not in rest
    left = {entry.name for entry in (tmp_path / "temporary").iterdir()}
    assert not {name for name in left if not name.startswith("torch")}
