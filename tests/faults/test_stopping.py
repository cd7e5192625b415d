"""Ctrl-C, SIGTERM and SIGHUP, once or twice: one line, the right exit code, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import shake_heads, smooth_image, tiny_hyper

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.base.terminal import Stopped, advising, stoppable
from hyperinit.images.save import save_image
from hyperinit.learn.loop import TrainState, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.record.records import read_records
from hyperinit.sets import results as results_module
from hyperinit.siren.store import CHECKPOINT_NAME, load_params

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

ROOT = Path(__file__).parent.parent.parent
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# As `hyperinit` is installed: `main` without arguments.
START = "import sys; from hyperinit.app.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def as_from_a_terminal():
    """Where these tests were started under nohup, its signal is ignored, and stays so."""
    ignored = [n for n in CODES if signal.getsignal(n) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(6):
        save_image(smooth_image(16, seed=seed), folder / f"{seed}.png")
    return folder


@pytest.fixture
def network(tmp_path) -> Path:
    state = TrainState(HYPERNETWORK, shake_heads(tiny_hyper()), torch.optim.AdamW([torch.zeros(1)]))
    save_state(tmp_path / CHECKPOINT_NAME, state, TrainConfig())
    return tmp_path / CHECKPOINT_NAME


def fit_all(photos: Path, out: Path, *flags: str) -> list[str]:
    small = ["--width", "8", "--depth", "1", "--batch-images", "1", "--init", "33"]
    return ["fit", str(photos), "-o", str(out), *small, "--budget-epochs", "4", *flags]


def benchmark(photos: Path, out: Path) -> list[str]:
    sizes = ["--image-size", "16", "--width", "8", "--depth", "1", "--batch-pixels", "64"]
    rates = ["--budgets-epochs", "1,2,4", "--lrs", "1e-3", "--lr-images", "1", "--seeds", "40"]
    images = ["--images", str(photos), "--tuning-images", "synthetic", "--inits", "33"]
    return ["benchmark", *images, *sizes, *rates, "--workers", "2", "--out", str(out)]


def process_of(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # As from a terminal, even where these tests were started under nohup.
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in CODES],
    )


def stopped(arguments: list[str], has_begun: Callable[[], bool], *numbers: int) -> tuple[int, str]:
    """The exit code and stderr of a command that gets signals once it has begun."""
    process, deadline = process_of(arguments), time.monotonic() + 120
    while not has_begun():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.01)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error and "Exception ignored" not in error
    assert error.count("stopped") == 1
    return process.returncode, error


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGINT, signal.SIGINT),
        pytest.param((signal.SIGINT,), marks=pytest.mark.long),
        pytest.param((signal.SIGTERM,), marks=pytest.mark.long),
        pytest.param((signal.SIGTERM, signal.SIGINT), marks=pytest.mark.long),
        pytest.param((signal.SIGHUP,) * 5, marks=pytest.mark.long),
    ],
)
def test_a_benchmark_keeps_its_records_and_continues(photos, tmp_path, numbers):
    out = tmp_path / "b.jsonl"
    code, error = stopped(
        benchmark(photos, out), lambda: out.exists() and out.stat().st_size > 0, *numbers
    )
    assert code in {CODES[number] for number in numbers}
    if len(numbers) == 1:
        assert code == CODES[numbers[0]] and "the same command continues" in error
    before = read_records(out)
    assert before
    # The same command but for fewer seeds, so that this is soon over.
    assert main([*benchmark(photos, out), "--seeds", "1", "--limit", "1"]) == 0
    after = read_records(out)
    assert after[: len(before)] == before and len(after) >= len(before)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),
        pytest.param((signal.SIGINT, signal.SIGINT), marks=pytest.mark.long),
        pytest.param((signal.SIGHUP, signal.SIGHUP), marks=pytest.mark.long),
    ],
)
def test_a_directory_keeps_its_results_and_continues(photos, tmp_path, numbers):
    out = tmp_path / "out"
    long = fit_all(photos, out, "--budget-epochs", "400", "--threads", "1")
    code, _ = stopped(long, lambda: any(out.glob("[!.]*.safetensors")), *numbers)
    assert code == CODES[numbers[0]]
    finished = {path.name: path.read_bytes() for path in out.glob("[!.]*.safetensors")}
    assert 1 <= len(finished) < 6
    assert main(long) == 0
    assert len(list(out.glob("*.safetensors"))) == 6
    assert all((out / name).read_bytes() == content for name, content in finished.items())


@pytest.mark.parametrize(("raised", "code"), [(RuntimeError, 143), (InputError, None)])
def test_what_fails_because_it_was_interrupted_is_no_traceback(capsys, raised, code):
    def work() -> int:
        with advising("the rest is kept"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                raise raised("a lock that was not taken yet")

    if code is None:  # what could not be kept is worth saying
        with pytest.raises(raised):
            stoppable(work)
    else:
        assert stoppable(work) == code
        assert capsys.readouterr().err == "stopped; the rest is kept\n"


@pytest.mark.long
@pytest.mark.parametrize("number", CODES)
def test_one_image_that_is_stopped_leaves_no_file(photos, tmp_path, number):
    out = tmp_path / "o.safetensors"
    arguments = ["fit", str(photos / "0.png"), "--init", "33", "--width", "8", "--depth", "1"]
    process = process_of([*arguments, "--budget-epochs", "900000", "-o", str(out)])
    time.sleep(15)  # imports and begins: nothing tells from outside
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == CODES[number] and error.count("stopped") == 1
    assert "Traceback" not in error and not out.exists()


@pytest.mark.parametrize("number", CODES)
def test_each_signal_is_one_line_and_what_was_made_stays(
    photos, tmp_path, network, number, monkeypatch, capsys
):
    """In this process, at a moment that is chosen: after the second file."""
    real, made = results_module.save_params, []

    def save(path, params, **facts):
        real(path, params, **facts)
        made.append(path)
        if len(made) == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(results_module, "save_params", save)
    monkeypatch.setattr("hyperinit.siren.store.save_params", save)
    before = {n: signal.getsignal(n) for n in CODES}
    assert main(fit_all(photos, tmp_path / "out")) == CODES[number]
    error = capsys.readouterr().err
    assert error.count("stopped; finished images are kept") == 1
    made.clear()
    generated = ["-o", str(tmp_path / "made"), "--checkpoint", str(network)]
    assert main(["generate", *map(str, sorted(photos.iterdir())), *generated]) == CODES[number]
    assert "are complete" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == ["0.safetensors", "1.safetensors"]
    for name in names:
        load_params(tmp_path / "made" / name)
    assert {n: signal.getsignal(n) for n in CODES} == before
    monkeypatch.undo()
    assert main(fit_all(photos, tmp_path / "out")) == 0
    assert "4 fitted, 2 finished before" in capsys.readouterr().out


def test_signals_that_the_process_ignores_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stoppable(lambda: signal.raise_signal(signal.SIGHUP) or 7) == 7
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_outer_one_has_the_signals_and_the_inner_one_the_line(capsys):
    def inner() -> int:
        with advising("nothing to do"), advising("less to the point"):
            signal.raise_signal(signal.SIGTERM)
        return 0

    assert stoppable(lambda: stoppable(inner)) == 143
    assert capsys.readouterr().err == "stopped; less to the point\n"


def test_a_plain_keyboard_interrupt_counts_as_ctrl_c(capsys):
    def work() -> int:
        raise KeyboardInterrupt

    assert stoppable(work) == 130 and capsys.readouterr().err == "stopped\n"
    with pytest.raises(Stopped) as caught, advising("a"):
        raise KeyboardInterrupt
    assert (caught.value.number, caught.value.advice) == (signal.SIGINT, "a")


FAILS_WHILE_OTHERS_COMPUTE = """
import sys, time
from multiprocessing.pool import ThreadPool
import torch
from hyperinit.base.terminal import stoppable

def compute(_):
    x = torch.ones(200, 200, requires_grad=True)
    while True:
        (x @ x).sum().backward()

def work():
    with ThreadPool(2) as pool:
        pool.imap_unordered(compute, range(2))
        time.sleep(0.3)
        {end}

stoppable(work, owns_process=True)
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [("sys.exit(2)", 2, ""), ("raise ValueError('theirs')", 1, "ValueError: theirs\n")],
)
def test_what_fails_while_other_fits_compute_keeps_its_exit_code(end, code, said):
    """An init of the wrong size, beside others at a time, made Python abort at its end: 134."""
    script = FAILS_WHILE_OTHERS_COMPUTE.format(end=end)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == code, found.stderr
    assert found.stderr.endswith(said) and "terminate" not in found.stderr
