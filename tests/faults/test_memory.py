"""What memory cannot hold is refused in one line before it is taken, not killed by the system."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import smooth_image
from PIL import Image

from hyperinit import InputError, init_, load_image
from hyperinit.app.cli import main
from hyperinit.base import errors
from hyperinit.base.errors import check_memory, free_memory
from hyperinit.exchange import write
from hyperinit.exchange.write import FORMATS, write_siren
from hyperinit.fitting.suits import check_fit_memory
from hyperinit.hypernet import inner
from hyperinit.images import decode
from hyperinit.images.pixels import resize
from hyperinit.images.save import save_image
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.learn.reptile import REPTILE, ReptileConfig
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.photos import stored
from hyperinit.photos.load import load
from hyperinit.sets import directory
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
READS = [*TRAIN, "--method", "reptile", "--patch-size", "1"]
MEASURE = ["benchmark", "--quick", "--inits", "33", "--out", "o.jsonl"]
MEASURE += ["--images", "p.png", "--tuning-images", "photos"]
OPEN = [*MEASURE, "--track", "open"]

# What is typed -> what the line must name.
TOO_LARGE = {
    "fit p.png -o o.safetensors --width 16384 --depth 3": "a smaller width or depth",
    "fit p.png -o o.safetensors --width 1024 --depth 900": "a smaller width or depth",
    # NAdam could be held: 0.21 GB.
    "fit p.png -o o.safetensors --width 1024 --depth 8 --fit optimizer=soap": "by soap",
    "fit p.png -o o.safetensors --size 1000x900 --batch-pixels 900000": "a smaller batch_pixels",
    "fit p.png -o o.safetensors --size 7000x7000": "a smaller size",
    "fit photos -o o --width 16384": "a smaller width or depth",
    "generate p.png --checkpoint photo-96 -o o.safetensors --size 7000x7000": "a smaller size",
    "generate p.png --checkpoint photo-96 -o o.safetensors --size 3100x3100": "a smaller --size",
    "generate photos --checkpoint photo-96 -o o --size 7000x7000": "a smaller size",
    "fit photos --init identity -o o --size 7000x7000": "a smaller size",
    "export s.safetensors --to fp16 -o o.safetensors --size 7000x7000": "a smaller --size",
    "demo --size 4096 --no-browser": "a smaller size, or fewer fits at a time",
    "render s.safetensors -o o.png --size 7000x7000": "a smaller --size",
    " ".join([*MEASURE, "--width", "8192"]): "a smaller width or depth",
    " ".join([*MEASURE, "--width", "2048", "--workers", "64"]): "fewer fits at a time",
    " ".join([*MEASURE, "--image-size", "4500"]): "a smaller size",
    " ".join([*OPEN, "--width", "1024", "--depth", "8", "--fit", "optimizer=soap"]): "by soap",
    " ".join([*OPEN, "--image-size", "500", "--fit", "batch_pixels=250000"]): "batch_pixels",
    " ".join([*TRAIN, "--width", "8192"]): "width 8192, depth 2",
    " ".join([*TRAIN, "--depth", "1000", "--width", "512"]): "depth 1000",
    " ".join([*TRAIN, "--batch-images", "65536"]): "batch_images 65536",
    " ".join([*TRAIN, "--code-size", "16384", "--channels", "4096"]): "take smaller ones",
    " ".join([*TRAIN, "--query-pixels", "16777216"]): "query_pixels 16777216",
    " ".join([*TRAIN, "--size", "4000"]): "batch_images 2, size 4000",
    " ".join([*TRAIN, "--method", "reptile", "--width", "8192"]): "width 8192",
    " ".join([*TRAIN, "--method", "reptile", "--size", "3000"]): "size 3000",
    " ".join([*TRAIN, "--method", "reptile", "--batch-images", "65536"]): "batch_images 65536",
    " ".join([*READS, "--token-size", "16384"]): "token_size 16384, transformer_layers 4",
    " ".join([*READS, "--batch-images", "9000"]): "batch_images 9000, patch_size 1",
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


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_for_another_program_is_refused_before_it_is_made(tmp_path, monkeypatch, to):
    params = drawn(SirenConfig(1024, 7))
    monkeypatch.setattr(errors, "free_memory", lambda: errors.SMALL_BYTES)
    path = tmp_path / f"o{FORMATS[to].suffixes[0]}"
    with pytest.raises(InputError, match=r"a file of 6296576 weights takes .* a smaller SIREN"):
        write_siren(path, params, to, size=(8, 8))
    assert not path.exists()


def test_more_weights_than_an_onnx_file_holds(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(write, "MAX_ONNX_BYTES", 100)
    with pytest.raises(InputError, match=r"an ONNX file holds .* export a smaller one"):
        write_siren(tmp_path / "o.onnx", drawn(SirenConfig(8, 1)), "onnx")


def test_a_network_of_others_is_refused_before_it_is_changed(monkeypatch):
    sizes = [2, *[1024] * 9, 3]
    net = torch.nn.Sequential(*(torch.nn.Linear(*pair) for pair in pairwise(sizes)))
    before = net[0].weight.clone()
    monkeypatch.setattr(errors, "free_memory", lambda: errors.SMALL_BYTES)
    with pytest.raises(InputError, match=r"an init of 8402947 weights takes .* a smaller network"):
        init_(net, layout="sequential")
    assert torch.equal(net[0].weight, before)


def test_many_images_are_not_kept_where_nothing_is_left(small, monkeypatch, capsys):
    monkeypatch.setattr(errors, "free_memory", lambda: errors.SMALL_BYTES - 1)
    for line in ("generate p.png -o o.safetensors", " ".join(MEASURE)):
        with pytest.raises(SystemExit):
            main(line.split())
        assert "only 0.067 GB of memory are left: " in capsys.readouterr().err


def test_a_batch_holds_no_more_weights_than_there_is_room_for(small, monkeypatch):
    for seed in range(7):
        save_image(smooth_image(8, seed), small / "photos" / f"{seed}.png")
    batches = []
    made = directory.fits_of
    monkeypatch.setattr(directory, "fits_of", lambda *a: batches.append(len(a[-1][1])) or made(*a))
    monkeypatch.setattr(directory, "BATCH_IMAGES", 2)
    monkeypatch.setattr(directory, "MAX_BATCH_WEIGHTS", 3 * SirenConfig(8, 2).weights)
    line = "fit photos -o o --init 33 --width 8 --depth 2 --size 8 --batch-images 1000000"
    assert main(line.split()) == 0
    assert batches == [3, 3, 2]


def test_a_decoder_without_memory_is_no_unreadable_image(small, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 36 bytes")

    monkeypatch.setattr(decode, "_decode", fail)
    with pytest.raises(InputError, match="not enough memory for this"):
        load_image(small / "p.png")


def test_inner_steps_keep_the_numbers_of_their_own_pixels_alone():
    params, image = drawn(SirenConfig(8, 1)), torch.rand(3, 64, 64)
    sizes = {name: torch.tensor(1e-3) for name in params}
    kept = []
    stack = torch.stack

    def stacked(tensors, *args, **options):
        kept.append([tensor.untyped_storage().nbytes() for tensor in tensors])
        return stack(tensors, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inner.torch, "stack", stacked)
        inner.adapt(params, image, [sizes] * 3, inner_pixels=16, seed=0)
    assert [16 * 8] * 3 in kept


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
