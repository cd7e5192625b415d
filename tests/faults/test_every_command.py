"""Every command that writes, stopped or out of disk at the moment its first file is written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import shake_heads, smooth_image, tiny_hyper

from hyperinit.app.cli import main
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.learn.loop import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.siren.network import SirenConfig
from hyperinit.siren.store import CHECKPOINT_NAME, save_params

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

FIT = "--width 8 --depth 1 --budget-epochs 1 --init identity"
MEASURE = "--quick --seeds 1 --image-size 8 --width 8 --depth 1 --budgets-epochs 1 --lrs 1e-3"
MEASURE += " --batch-pixels 16 --lr-images 1 --tuning-images photos/0.png --images photos/1.png"

# What is typed -> what it writes.
LINES = {
    f"fit photos/0.png {FIT} -o new.safetensors": "new.safetensors",
    f"fit photos {FIT} --learn -o new": "new",
    f"fit photos/0.png {FIT} --render new.png": "new.png",
    f"generate photos --checkpoint {CHECKPOINT_NAME} -o new": "new",
    f"generate photos/0.png --checkpoint {CHECKPOINT_NAME} -o new.safetensors": "new.safetensors",
    "render s.safetensors --size 8x8 -o new.png": "new.png",
    "export s.safetensors --to npz -o new.npz": "new.npz",
    "export s.safetensors --to glsl -o new.html": "new.html",
    "gallery results --images photos -o new.html": "new.html",
    f"benchmark {MEASURE} --inits 33 --out new.jsonl": "new.jsonl",
    "submit r.jsonl --by x -o new.jsonl": "new.jsonl",
    "leaderboard r.jsonl -o new": "new",
    "report r.jsonl -o new": "new",
}
DRAWS = ("benchmark", "leaderboard", "report")  # charts, which take seconds
LINES_MARKED = [
    pytest.param(line, marks=[pytest.mark.slow] if line.startswith(DRAWS) else []) for line in LINES
]
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What commands read."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    for seed in range(2):
        save_image(smooth_image(8, seed), folder / "photos" / f"{seed}.png")
    drawn = sample_params(
        named_init("33"), SirenConfig(8, 1), generator=torch.Generator().manual_seed(0)
    )
    save_params(folder / "s.safetensors", drawn)
    state = TrainState(HYPERNETWORK, shake_heads(tiny_hyper()), torch.optim.AdamW([torch.zeros(1)]))
    save_state(folder / CHECKPOINT_NAME, state, TrainConfig())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(f"fit photos {FIT} -o results".split()) == 0
        assert main(f"benchmark {MEASURE} --inits 33 --out r.jsonl".split()) == 0
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "place"


@pytest.mark.parametrize("line", LINES_MARKED)
def test_a_signal_at_the_first_file_is_one_line_and_the_command_can_be_given_again(
    place, line, monkeypatch, capsys
):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr("tempfile.tempdir", None)
    for number, code in SIGNALS.items():
        real, sent = os.replace, []

        def replace(*args, number=number, real=real, sent=sent, **options):
            if not sent:
                sent.append(number)
                signal.raise_signal(number)
            real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            assert main(line.split()) == code
        said = capsys.readouterr()
        assert sent and said.err.count("stopped") == 1 and "Traceback" not in said.err
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert not list(place.rglob("*.tmp"))
    assert main(line.split()) == 0, capsys.readouterr().err
    assert (place / LINES[line]).exists()


@pytest.mark.parametrize("line", LINES_MARKED)
def test_a_disk_that_fills_up_at_the_end_is_one_line_and_leaves_nothing_half(
    place, line, monkeypatch, capsys
):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "No space left on device" in said
    assert "Traceback" not in said and not list(place.rglob("*.tmp"))
    assert main(line.split()) == 0, capsys.readouterr().err
    assert (place / LINES[line]).exists()


@pytest.mark.parametrize("line", ["leaderboard r.jsonl -o file/new", "report r.jsonl -o file/new"])
def test_a_place_that_cannot_be_is_refused_before_the_work(place, line, monkeypatch, capsys):
    (place / "file").write_text("")
    monkeypatch.setattr("hyperinit.score.score.score_groups", None)
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2 and "cannot write to file" in capsys.readouterr().err


def into_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = {
    "gone": Path.unlink,
    "a directory": into_a_directory,
    "empty": lambda path: path.write_bytes(b""),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path)),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("line", ["fit photos -o new", "generate photos -o new", "gallery results"])
def test_an_image_that_changes_between_listing_and_reading_costs_itself_alone(
    place, line, change, monkeypatch, capsys
):
    from hyperinit.photos import load

    real = load.open_source

    def opened(*args, **options):
        source = real(*args, **options)
        CHANGES[change](place / "photos" / "0.png")
        return source

    for module in ("hyperinit.photos.load", "hyperinit.sets.command"):
        monkeypatch.setattr(f"{module}.open_source", opened)
    rest = {"fit": FIT, "generate": f"--checkpoint {CHECKPOINT_NAME}", "gallery": "--images photos"}
    code = main([*line.split(), *rest[line.split()[0]].split()])
    said = capsys.readouterr()
    if line.startswith("gallery"):
        page = (place / "results" / "gallery.html").read_text()
        assert code == 0 and page.count("No original") == 1
    else:
        assert code == 1 and "0.png: " in said.err and "Traceback" not in said.err
        assert len(list((place / "new").glob("*.safetensors"))) == 1
