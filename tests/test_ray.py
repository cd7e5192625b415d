"""Fits and benchmarks spread over Ray: the same results, and a killed worker costs nothing else."""

from __future__ import annotations

import csv
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import smooth_image
from records import ladder

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.images.save import save_image
from hyperinit.record.records import read_records
from hyperinit.report.tables import csv_text, markdown
from hyperinit.score.score import score_groups
from hyperinit.siren.store import load_params
from hyperinit.spread.engines import HERE, OnRay, engine_of

ROOT = Path(__file__).parent.parent
with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: hyperinit[ray]"
)
with_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are found in /proc")
FIT = ["--width", "16", "--depth", "2", "--budget-epochs", "2", "--batch-images", "2"]


def command(*arguments: object) -> subprocess.Popen:
    settings = {"env": {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    run = "import sys; from hyperinit.app.cli import main; sys.exit(main(sys.argv[1:]))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", run, *map(str, arguments)], **pipes, **settings)


def finished(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


def images_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        save_image(smooth_image(16, seed=i), folder / f"{i}.png")
    return folder


@pytest.mark.long
@with_ray
def test_a_directory_on_ray_is_what_it_is_here(tmp_path):
    source = images_in(tmp_path / "in", 5)
    on_ray = command("fit", source, "-o", tmp_path / "there", *FIT, "--ray")
    assert main(["fit", str(source), "-o", str(tmp_path / "here"), *FIT]) == 0
    assert "5 fitted" in finished(on_ray)
    names = sorted(path.name for path in (tmp_path / "here").glob("*.safetensors"))
    assert names == sorted(path.name for path in (tmp_path / "there").glob("*.safetensors"))
    for name in names:
        (here, facts), (there, others) = (
            load_params(tmp_path / d / name) for d in ("here", "there")
        )
        assert facts["fit"] == others["fit"] and facts["became"] == others["became"]
        for key, value in here.items():
            torch.testing.assert_close(value, there[key], rtol=1e-4, atol=1e-5)
    again = command("fit", source, "-o", tmp_path / "there", *FIT, "--ray")
    assert "0 fitted, 5 finished before" in finished(again)


def children(pid: int) -> list[int]:
    """Processes below one, by /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def slow_fit(folder: Path) -> tuple[list[object], Path]:
    """The command line of a fit of eight images that takes a while, and where its results go."""
    source, out = images_in(folder / "in", 8), folder / "out"
    how = [*FIT[:4], "--budget-epochs", "400", *FIT[6:]]
    return ["fit", source, "-o", out, *how, "--ray"], out


def busy_workers(pid: int) -> list[int]:
    """Ray's workers that are at work, below a process."""
    found = []
    for child in children(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        found += [child] if title.startswith(b"ray::_call") else []
    return found


@pytest.mark.long
@with_ray
@with_proc
def test_a_killed_worker_costs_its_batch_only_and_a_killed_command_continues(tmp_path):
    line, out = slow_fit(tmp_path)
    running = command(*line)
    killed = None
    while running.poll() is None:
        done = len(list(out.glob("*.safetensors"))) if out.is_dir() else 0
        if killed is None and done and (found := busy_workers(running.pid)):
            killed = found[0]
            os.kill(killed, signal.SIGKILL)
        if killed is not None and done >= 4:
            os.kill(running.pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    running.communicate()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert killed is not None and len(before) >= 4
    assert f"{len(before)} finished before" in finished(command(*line))
    after = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert len(after) == 8
    assert {path: after[path] for path in before} == before


@pytest.mark.long
@with_ray
@with_proc
def test_ctrl_c_ends_the_command_in_one_line_and_the_cluster_with_it(tmp_path):
    line, out = slow_fit(tmp_path)
    running = command(*line)
    while running.poll() is None and not (out.is_dir() and list(out.glob("*.safetensors"))):
        time.sleep(0.05)
    below = children(running.pid)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=120)
    assert running.returncode == 130, told
    assert "finished images are kept; the same command continues" in told
    assert "Traceback" not in told
    until = time.monotonic() + 60
    while below and time.monotonic() < until:
        below = [pid for pid in below if Path(f"/proc/{pid}").exists()]
        time.sleep(0.1)
    assert not below
    assert all(load_params(path) for path in out.glob("*.safetensors"))


@pytest.mark.slow
@with_ray
def test_a_benchmark_on_ray_gives_the_records_of_one_here_and_names_the_machine(tmp_path):
    init = tmp_path / "mine.py"
    init.write_text(
        "from hyperinit import named_init, sample_params\n"
        "import torch\n"
        "def start(image, seed):\n"
        "    config = named_init('33').siren_config(16, 2)\n"
        "    draw = torch.Generator().manual_seed(seed)\n"
        "    return sample_params(named_init('33'), config, generator=draw)\n"
    )
    how = ["benchmark", "--inits", "33", f"{init}:start", "--limit", "1", "--seeds", "1"]
    how += ["--image-size", "16", "--width", "16", "--depth", "2", "--budgets-epochs", "1,2"]
    how += ["--lr-images", "1", "--lrs", "1e-3,2e-3"]
    on_ray = command(*how, "--out", tmp_path / "there.jsonl", "--ray", "--workers", "2")
    assert main([*how, "--out", str(tmp_path / "here.jsonl"), "--workers", "1"]) == 0
    finished(on_ray)
    here, there = (
        {r.trial: r for r in read_records(tmp_path / f"{n}.jsonl")} for n in ("here", "there")
    )
    assert set(here) == set(there) and here
    for trial, record in there.items():
        assert record.mse == pytest.approx(here[trial].mse, rel=1e-4)
        assert record.environment["machine"] and record.environment["threads"] == 1
        machine = here[trial].environment["machine"]
        assert record.environment["machine"].startswith(f"{machine}, node ")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (Exception("The node timed out\nduring startup"), "The node timed out"),
        (OSError(), "OSError"),
    ],
)
def test_a_cluster_that_does_not_start_is_one_line(monkeypatch, raised, reason):
    def init(**options):
        raise raised

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(InputError, match=rf"no cluster could be started here \({reason}\)"):
        engine_of("local").__enter__()


def test_without_ray_the_line_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    source = images_in(tmp_path / "in", 1)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(source), "-o", str(tmp_path / "out"), *FIT, "--ray"])
    assert stopped.value.code == 2
    assert "--ray needs ray: pip install 'hyperinit[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"threads": 0}, "--threads must be at least 1"),
        ({"most": 0}, "--workers must be at least 1"),
        ({"gpus": -1.0}, "--ray-gpus must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_starts(settings, line):
    with pytest.raises(InputError, match=line), engine_of("local", **settings):
        pass


def test_what_is_given_without_ray_is_refused_or_done_here():
    with engine_of(None) as engine:
        assert engine is HERE and list(engine.map(str, [1, 2])) == [(1, "1"), (2, "2")]
    with pytest.raises(InputError, match="--ray-gpus needs --ray"), engine_of(None, gpus=1):
        pass


class Ref:
    """A piece of work on a pretended cluster."""

    def __init__(self, work, item):
        self.work, self.item = work, item


class PretendedRay:
    """What `OnRay.map` needs of Ray: work is done when it is waited for, the last first."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause):
                self.cause = cause

    def __init__(self, gpus=0.0):
        self.gpus = gpus
        self.most_pending = 0
        self.died = set()

    def cluster_resources(self):
        return {"CPU": 2.0} | ({"GPU": self.gpus} if self.gpus else {})

    def init(self, **settings):
        self.connected = settings

    def shutdown(self):
        self.connected = None

    def put(self, function):
        return function

    def remote(self, **settings):
        self.asked = settings

        class Remote:
            def __init__(self, function):
                pass

            def remote(self, shared, item, threads, version):
                return Ref(shared[0], item)

        assert settings["max_retries"] == 3
        return Remote

    def wait(self, refs, num_returns):
        self.most_pending = max(self.most_pending, len(refs))
        return refs[-1:], refs[:-1]

    def get(self, ref):
        if ref.item in self.died:
            raise self.exceptions.RayError
        try:
            return ref.work(ref.item)
        except Exception as error:
            raise self.exceptions.RayTaskError(error) from error


def test_no_more_is_handed_out_than_there_is_room_for_and_lost_work_is_named(monkeypatch):
    ray = PretendedRay()
    ray.died = {3}
    monkeypatch.setitem(sys.modules, "ray", ray)
    asked = []

    def items():
        for i in range(20):
            asked.append(i)
            yield i

    found = dict(OnRay().map(lambda i: i * i, items()))
    assert set(found) == set(range(20)) and ray.most_pending == 4
    assert "died" in str(found.pop(3))
    assert found == {i: i * i for i in found}
    ray.most_pending = 0
    list(OnRay(most=1).map(str, range(3)))
    assert ray.most_pending == 1


def test_a_share_of_a_gpu_is_asked_of_ray_and_bounds_what_is_handed_out(monkeypatch):
    ray = PretendedRay(gpus=0.5)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with engine_of("auto", gpus=0.25) as engine:
        assert ray.connected["address"] == "auto" and engine.device == "cuda"
        assert engine.workers == 2
        assert len(dict(engine.map(str, range(5)))) == 5
        assert (ray.asked["num_gpus"], ray.asked["num_cpus"]) == (0.25, 1)
    assert ray.connected is None
    with pytest.raises(InputError, match=r"--ray-gpus 0.75: the cluster has 0.5 GPUs in all"):
        engine_of("auto", gpus=0.75).__enter__()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:{}0000000"])
def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch, form):
    ray = PretendedRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.socket() as taken:  # and does not listen
        taken.bind(("127.0.0.1", 0))
        address = form.format(taken.getsockname()[1])
        with pytest.raises(InputError, match=r"^--ray \S+: no cluster there \("):
            engine_of(address).__enter__()
    assert not hasattr(ray, "connected")


def test_the_commands_take_a_share_of_a_gpu(tmp_path, monkeypatch, capsys):
    ray = PretendedRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    source = images_in(tmp_path / "in", 1)
    with pytest.raises(SystemExit) as stopped:
        fit = ["fit", str(source), "-o", str(tmp_path / "out"), *FIT]
        main([*fit, "--ray", "auto", "--ray-gpus", "0.25"])
    assert stopped.value.code == 2
    assert "--ray-gpus 0.25: the cluster has 0 GPUs in all" in capsys.readouterr().err


def test_a_line_for_the_user_comes_through_from_a_worker(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", PretendedRay())

    def refuse(item):
        raise InputError("no such init")

    with pytest.raises(InputError, match=r"^no such init$"):
        list(OnRay().map(refuse, [1]))


def test_seconds_of_several_machines_are_left_out():
    def scored(*machines):
        found = []
        for image, machine in zip("abc", machines, strict=True):
            fits = ladder("33", {1.0: 0.05, 2.0: 0.01}, image)
            there = {**fits[0].environment, "machine": machine}
            found += [replace(fit, environment=there) for fit in fits]
        (group,) = score_groups(found, tune_on_test=True)
        return group

    one, several = scored("x", "x", "x"), scored("x", "y", "x")
    assert one.inits[0].targets[0.02].seconds is not None and one.notes == ()
    target = several.inits[0].targets[0.02]
    assert (
        target.seconds is None and target.epochs.median == one.inits[0].targets[0.02].epochs.median
    )
    assert "Measured in 2 places" in several.notes[0]
    assert "seconds are not comparable" in markdown([several])
    rows = csv.DictReader(csv_text([several]).splitlines())
    assert {row["measure"] for row in rows} == {"epochs"}
