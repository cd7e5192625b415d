"""`--quiet` and `--json` of every command: what is on stdout and stderr, and its fields."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import shake_heads, smooth_image, tiny_hyper
from records import ladder

from hyperinit import save_image
from hyperinit.app.cli import COMMANDS, main
from hyperinit.base import results, terminal
from hyperinit.base.arguments import parser_of
from hyperinit.learn.state import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.record.records import append_record
from hyperinit.siren.store import CHECKPOINT_NAME

ROOT = Path(__file__).parent.parent
SMALL = ["--width", "16", "--depth", "2", "--budget-epochs", "2", "--batch-pixels", "64"]

# What a type of RESULTS means to somebody who reads the JSON.
MEANS = {
    "text": lambda value: isinstance(value, str),
    "whole": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "flag": lambda value: type(value) is bool,
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def objects(text: str) -> list[dict]:
    """The lines of stdout, each an object whose fields are the documented ones."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        expected = results.RESULTS[one["kind"]]
        assert list(one) == ["kind", *expected]
        for name, (wanted, _) in expected.items():
            null = one[name] is None and (wanted.startswith("number") or wanted.endswith("?"))
            assert null or MEANS[wanted.rstrip("?")](one[name]), (one["kind"], name)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with a checkpoint, photographs, one broken file and records."""
    monkeypatch.chdir(tmp_path)
    state = TrainState(HYPERNETWORK, shake_heads(tiny_hyper()), torch.optim.AdamW([torch.zeros(1)]))
    save_state(tmp_path / CHECKPOINT_NAME, state, TrainConfig())
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        save_image(smooth_image(16, seed), tmp_path / "photos" / f"{seed}.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"junk")
    for init, errors in {"33": {1.0: 0.4, 4.0: 0.02}, "never": {1.0: 0.9, 4.0: 0.5}}.items():
        for image, track in (("cat", "tuned"), ("tuning cat", "tuned-lr")):
            for record in ladder(init, errors, image, track=track):
                append_record(tmp_path / "records.jsonl", record)
    return tmp_path


def test_images_and_sirens_as_json(place, capsys):
    def run(*arguments: str, code: int = 0) -> list[dict]:
        assert main([*arguments, "--json", "--quiet"]) == code
        return objects(capsys.readouterr().out)

    photo = "photos/0.png"
    (made,) = run("generate", photo, "--checkpoint", CHECKPOINT_NAME, "-o", "init.safetensors")
    assert (made["kind"], made["out"]) == ("generated", "init.safetensors")
    assert (made["images"], made["finished"], made["failed"]) == (1, 0, 0)
    (fit,) = run("fit", photo, "--init", "33", *SMALL, "-o", "a.safetensors")
    assert fit["mse"] < 1 and fit["psnr"] > fit["psnr_start"] and fit["render"] is None
    (fit,) = run("fit", photo, "--init", "33", *SMALL[:4], "--target-mse", "0.5")
    assert fit["mse"] <= 0.5 and fit["psnr_start"] is None and fit["attempts"] >= 1
    *each, whole = run("fit", "photos", "--init", "33", *SMALL, "-o", "fitted", code=1)
    assert sorted(one["kind"] for one in each) == ["failed", "image", "image"]
    assert (whole["fitted"], whole["missed"], whole["failed"]) == (2, 0, 1)
    starts = ("--checkpoint", CHECKPOINT_NAME, "-o", "starts")
    failed, made = run("generate", "photos", *starts, code=1)
    assert failed["image"] == "bad.png" and (made["images"], made["failed"]) == (2, 1)
    (page,) = run("gallery", "fitted", "--images", "photos")
    assert (page["out"], page["images"], page["left_out"]) == ("fitted/gallery.html", 2, 0)
    (drawn,) = run("render", "a.safetensors", "--size", "5x9", "-o", "a.png")
    assert drawn["size"] == "5x9"
    (whole,) = run("export", "a.safetensors", "--to", "npz")
    assert whole["bytes"] == Path(whole["out"]).stat().st_size and whole["psnr_to_full"] is None
    (half,) = run("export", "a.safetensors", "--to", "fp16", "--image", photo)
    assert half["psnr_to_full"] > 20 and half["psnr_after"] is not None


@pytest.mark.parametrize("name", ["at 10.00\u202fAM", "two\nlines", "\udcff"], ids=ascii)
def test_paths_are_as_they_are_whatever_a_terminal_would_show(place, capsys, name):
    def out_of(*arguments: str) -> list[dict]:
        main([*arguments, "--json", "--quiet"])
        return objects(capsys.readouterr().out)

    (place / name).mkdir()
    photo, siren = f"{name}/{name}.png", f"{name}/{name}.safetensors"
    shutil.copy("photos/0.png", photo)
    shutil.copy("photos/bad.png", f"{name}/{name}.jpg")
    picture, made = f"{name}.png", f"{name}.npz"
    (fit,) = out_of("fit", photo, "--init", "33", *SMALL, "-o", siren, "--render", picture)
    assert [fit[what] for what in ("image", "out", "render")] == [photo, siren, picture]
    assert out_of("render", siren, "-o", picture)[0]["out"] == picture
    assert out_of("export", siren, "--to", "npz", "-o", made)[0]["out"] == made
    starts = f"{name} starts"
    failed, all_of_it = out_of("generate", name, "--init", "33", *SMALL[:4], "-o", starts)
    assert (failed["image"], all_of_it["out"]) == (f"{name}.jpg", starts)
    fits = f"{name} fits"
    *each, whole = out_of("fit", name, "--init", "33", *SMALL, "-o", fits)
    assert whole["out"] == fits and whole["failed"] == 1
    assert {one["image"] for one in each} == {f"{name}.png", f"{name}.jpg"}
    assert out_of("gallery", fits)[0]["out"] == f"{fits}/gallery.html"


@pytest.mark.slow
def test_records_as_json(place, capsys):
    assert main(["score", "records.jsonl", "--json"]) == 0
    rows = objects(capsys.readouterr().out)
    medians = {(row["init"], row["target_mse"]): row["median"] for row in rows}
    assert medians["33", 0.02] == 4 and medians["never", 0.02] is None  # infinite: no JSON number
    assert main(["report", "records.jsonl", "-o", "report", "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert objects(shown.out)[0]["records"] == 8 and shown.err == ""
    assert main(["benchmark", "--list", "--json"]) == 0
    assert "33" in objects(capsys.readouterr().out)[0]["inits"]


@pytest.mark.slow
def test_training_as_json_prints_its_comparison(place, capsys):
    command = ["meta-train", "--preset", "tiny", "--data", "synthetic", "--wandb", "disabled"]
    assert main([*command, "--max-steps", "2", "--out", "run", "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    rows = objects(shown.out)
    assert [row["cells"]["init"] for row in rows][-1] == "hyper" and shown.err == ""


@pytest.mark.slow
def test_quiet_leaves_results_and_errors(place, capsys):
    assert main(["report", "records.jsonl", "-o", "report"]) == 0
    assert "records -> report" in capsys.readouterr().err
    assert main(["report", "records.jsonl", "-o", "report", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    fit = ["fit", "photos", "--init", "33", *SMALL, "-o", "fitted", "--quiet"]
    assert main(fit) == 1
    shown = capsys.readouterr()
    assert "2 fitted" in shown.out and "bad.png: " in shown.err
    with pytest.raises(SystemExit):
        main(["render", "nowhere.safetensors", "-o", "a.png", "--quiet"])
    assert "nowhere.safetensors" in capsys.readouterr().err


def test_how_a_command_talks_ends_with_it(place, capsys):
    assert main(["score", "records.jsonl", "--json", "--quiet"]) == 0
    assert results.manner() == results.Manner()
    capsys.readouterr()
    assert main(["score", "records.jsonl"]) == 0
    assert capsys.readouterr().out.startswith("**tuned track**")


def test_fields_that_are_not_documented_are_refused():
    with results.own_manner():
        results.set_manner(json=True)
        with pytest.raises(ValueError, match="fields"):
            results.result("demo", "x", uri="x")
        with pytest.raises(ValueError, match="url must be a text"):
            results.result("demo", "x", url=1)


# Neither talks nor has results of its own: a script for a shell.
WITHOUT = {"completion"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT])
def test_every_command_has_the_switches(name):
    parser = parser_of(lambda: main([name]))
    assert parser.prog == f"hyperinit {name}"
    switches = set(parser._option_string_actions)
    assert "--json" in switches and ("--quiet" in switches or name == "inits")


class Terminal:
    """Standard error as a terminal would be, with what was written to it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_a_bar_shows_the_time_left_on_a_terminal_and_nothing_in_a_pipe(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "BAR_AFTER_SEC", 1e-9)
    assert list(terminal.progress(range(3), mininterval=0)) == [0, 1, 2]
    assert capsys.readouterr().err == ""  # a pipe, and far less than half a minute
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for _ in terminal.progress(range(3), mininterval=0):
        pass
    assert "3/3" in screen.text and "<" in screen.text
    screen.text = ""
    with results.own_manner():
        results.set_manner(quiet=True)
        for _ in terminal.progress(range(3), mininterval=0):
            pass
        terminal.say("a remark")
        assert not terminal.EpochBar(1).is_shown
    assert screen.text == ""


@pytest.mark.parametrize("line", [terminal.say, lambda text: results.result("demo", text, url="")])
def test_lines_between_do_not_make_a_bar_appear_before_its_time(monkeypatch, capsys, line):
    for _ in terminal.progress(range(3)):
        line("done")
    shown = capsys.readouterr()
    assert (shown.out + shown.err).splitlines() == ["done"] * 3
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for _ in terminal.progress(range(3), leave=False):
        line("done")
    assert "0/3" not in screen.text
    monkeypatch.setattr(terminal, "BAR_AFTER_SEC", 1e-9)
    for _ in terminal.progress(range(3)):
        line("done")
    assert "0/3" in screen.text


def test_a_fit_to_a_target_says_how_far_it_will_go():
    from hyperinit import fit_to_target, named_init, sample_params
    from hyperinit.fitting.target import Progress

    start = sample_params(
        named_init("33"),
        named_init("33").siren_config(16, 2),
        generator=torch.Generator().manual_seed(0),
    )
    seen: list[Progress] = []
    found = fit_to_target(
        start,
        smooth_image(16),
        0.2,
        batch_pixels=64,
        budget_epochs=60,
        on_progress=seen.append,
    )
    spent = [now.epochs for now in seen]
    assert found.reached and spent == sorted(spent) and spent[-1] <= found.epochs
    assert all(now.epochs <= now.planned_epochs <= 60 + 1e-9 for now in seen)
    assert seen[-1].mse < 0.5  # an estimate of the error


def test_the_documents_have_the_fields():
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    assert results.results_markdown() in page
