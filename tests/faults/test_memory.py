"""What memory cannot hold is refused in one line before it is taken, not killed by the system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import smooth_image
from PIL import Image

from hyperinit import InputError, load_image
from hyperinit.app.cli import main
from hyperinit.base import errors
from hyperinit.base.errors import check_memory, free_memory
from hyperinit.fitting.suits import check_fit_memory
from hyperinit.images.pixels import resize
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.learn.reptile import REPTILE, ReptileConfig
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.photos import stored
from hyperinit.photos.load import load
from hyperinit.siren.network import SirenConfig
from hyperinit.siren.signals import render_signal
from hyperinit.siren.store import save_params

FREE_BYTES = 2**28  # of the small machine that these tests pretend to run on


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(errors, "free_memory", lambda: FREE_BYTES)
    save_image(smooth_image(16), tmp_path / "p.png")
    (tmp_path / "photos").mkdir()
    save_image(smooth_image(16, 1), tmp_path / "photos" / "p.png")
    save_params(tmp_path / "s.safetensors", drawn(SirenConfig(8, 1)))
    return tmp_path


def drawn(config: SirenConfig):
    return sample_params(named_init("33"), config, generator=torch.Generator().manual_seed(0))


TRAIN = ["meta-train", "--preset", "tiny", "--wandb", "disabled", "--out", "o"]
MEASURE = ["benchmark", "--quick", "--inits", "33", "--out", "o.jsonl"]
MEASURE += ["--images", "p.png", "--tuning-images", "photos"]

# What is typed -> what the line must name.
TOO_LARGE = {
    "fit p.png -o o.safetensors --width 16384 --depth 3": "a smaller width or depth",
    "fit p.png -o o.safetensors --width 1024 --depth 900": "a smaller width or depth",
    "fit p.png -o o.safetensors --size 1000x900 --batch-pixels 900000": "a smaller batch_pixels",
    "fit p.png -o o.safetensors --size 7000x7000": "a smaller size",
    "fit photos -o o --width 16384": "a smaller width or depth",
    "generate p.png --checkpoint photo-96 -o o.safetensors --size 7000x7000": "a smaller size",
    "render s.safetensors -o o.png --size 7000x7000": "a smaller --size",
    " ".join([*MEASURE, "--width", "8192"]): "a smaller width or depth",
    " ".join([*MEASURE, "--width", "2048", "--workers", "64"]): "fewer fits at a time",
    " ".join([*TRAIN, "--width", "8192"]): "width 8192, depth 2",
    " ".join([*TRAIN, "--depth", "1000", "--width", "512"]): "depth 1000",
    " ".join([*TRAIN, "--batch-images", "65536"]): "batch_images 65536",
    " ".join([*TRAIN, "--code-size", "16384", "--channels", "4096"]): "take smaller ones",
    " ".join([*TRAIN, "--method", "reptile", "--width", "8192"]): "width 8192",
}


@pytest.mark.parametrize("line", TOO_LARGE)
def test_a_command_that_asks_for_too_much_is_refused_in_one_line(small, capsys, line):
    before = sorted(small.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and said.count("\n") == 0
    assert "GB of memory or more, and 0.268 GB are free" in said and TOO_LARGE[line] in said
    assert sorted(small.iterdir()) == before


def test_functions_refuse_it_too(small):
    for ask in (
        lambda: drawn(SirenConfig(16384, 3)),
        lambda: resize(smooth_image(16), 7000, 7000),
        lambda: render_signal(drawn(SirenConfig(8, 1, in_features=1, out_features=64)), [2**21]),
        lambda: check_fit_memory(SirenConfig(1024, 3), 10**6, 64, fits=16),
    ):
        with pytest.raises(InputError, match="GB of memory or more"):
            ask()
    Image.new("L", (5000, 4000)).save(small / "large.png")
    with pytest.raises(InputError, match=r"large\.png: 5000 x 4000 takes .* make it smaller first"):
        load_image(small / "large.png")


def test_what_fits_is_done(small):
    assert main(["fit", "p.png", "--width", "16", "--depth", "2", "--budget-epochs", "1"]) == 0


def test_photographs_in_memory_leave_half_of_it(small, monkeypatch):
    for name in ("q", "r"):
        save_image(smooth_image(16, ord(name)), small / "photos" / f"{name}.png")
    monkeypatch.setattr(stored, "free_memory", lambda: 2 * (3 * 16 * 16 + 2000))
    found = load(str(small / "photos"), held_out_fraction=0)
    again = [photo for photo in found.train if not isinstance(photo.stored, torch.Tensor)]
    assert len(found.train) == 3 and again  # and what is not in memory is read when it is drawn
    assert all(photo.pixels.shape == (3, 16, 16) for photo in found.train)


MEMINFO = "MemTotal: 100 kB\nMemAvailable: 60 kB\nSwapFree: 4 kB\n"


def machine(root: Path, **files: str) -> Path:
    """A file system that says these things of a machine; "__" is a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(directory: str, most: str, used: int, cache: int, *, version: int) -> dict[str, str]:
    names = ("memory_DOT_max", "memory_DOT_current", "inactive_file")
    if version == 1:
        names = (
            "memory_DOT_limit_in_bytes",
            "memory_DOT_usage_in_bytes",
            "total_inactive_file",
        )
    stat = f"anon 1\n{names[2]} {cache}\n"
    return {
        f"{directory}__{names[0]}": most,
        f"{directory}__{names[1]}": str(used),
        f"{directory}__memory_DOT_stat": stat,
    }


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 64 * 1024),
        (
            {"proc__self__cgroup": "0::/\n", **group("sys__fs__cgroup", "max", 9, 0, version=2)},
            65536,
        ),
        (
            {
                "proc__self__cgroup": "0::/a/b\n",
                **group("sys__fs__cgroup__a", "5000", 2000, 500, version=2),
                **group("sys__fs__cgroup__a__b", "max", 1500, 0, version=2),
            },
            3500,
        ),
        (
            {
                "proc__self__cgroup": "5:cpu:/c\n4:memory:/not/seen/in/a/container\n",
                **group("sys__fs__cgroup__memory", "4000", 3000, 200, version=1),
            },
            1200,
        ),
        ({"proc__self__cgroup": "0::/\n", **group("sys__fs__cgroup", "1", 9, 0, version=2)}, 0),
    ],
)
def test_what_is_free_is_the_least_of_the_machine_and_its_groups(tmp_path, files, free):
    assert free_memory(machine(tmp_path, proc__meminfo=MEMINFO, **files)) == free


def test_where_nothing_is_said_all_of_the_machine_is_taken_for_free(tmp_path, monkeypatch):
    assert free_memory(tmp_path) is None or free_memory(tmp_path) > 2**26
    monkeypatch.setattr(errors, "free_memory", lambda: None)
    check_memory(1e30, "a moon", "take a smaller one")


def test_the_memory_of_usual_work_is_never_refused(monkeypatch):
    # A machine of 8 GB that is half full; photographs and networks that people fit on it.
    monkeypatch.setattr(errors, "free_memory", lambda: 4 * 10**9)
    for width, depth, pixels in ((256, 5, 12_000_000), (512, 8, 50_000_000), (1024, 5, 10**6)):
        check_fit_memory(SirenConfig(width, depth), pixels, 1024)
    HYPERNETWORK.check_memory(TrainConfig(size=224, width=256, depth=5, batch_images=8))
    REPTILE.check_memory(ReptileConfig(size=224, width=256, depth=5, read_numbers=128))
