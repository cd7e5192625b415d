"""Data where people have it: the same pictures in every form, and what is wrong with some."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import fails
from test_profiles import DISPLAY_P3, rgb_profile

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.data.paths import expand
from hyperinit.data.source import Source
from hyperinit.data.table import absolute
from hyperinit.images.decode import to_image
from hyperinit.images.pixels import from_uint8, image_hash, to_uint8
from hyperinit.learn.rundir import with_absolute_data
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.learn.tracking import LOG_NAME, read_log
from hyperinit.photos.load import is_set, load, open_source
from hyperinit.photos.photographs import CropSampler, Photographs
from hyperinit.photos.stored import keep_photos
from hyperinit.photos.synthetic import synthetic_image
from hyperinit.photos.workers import Ahead
from hyperinit.photos.workload import images_to_test, images_to_tune_on
from hyperinit.siren.store import CHECKPOINT_NAME, load_tensors, save_tensors

ROOT = Path(__file__).parent.parent
SHARE = 0.3  # held out, of six


def pictures(count: int = 6) -> list[np.ndarray]:
    """Different 8-bit images (12, 20, 3)."""
    images = (synthetic_image(seed, 20)[:, 4:16] for seed in range(count))
    return [to_uint8(image).permute(1, 2, 0).numpy() for image in images]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_folder(top: Path) -> str:
    top.mkdir()
    for number, pixels in enumerate(pictures()):
        (top / f"{number:03d}.png").write_bytes(png(pixels))
    return str(top)


def write_shards(top: Path) -> str:
    top.mkdir()
    for shard in range(2):
        samples = list(enumerate(pictures()))[3 * shard : 3 * shard + 3]
        members = [(f"{n:03d}.{kind}", c) for n, p in samples for kind, c in both(n, p)]
        write_tar(top / f"s-{shard:02d}.tar", members)
    return f"{top}/s-{{00..01}}.tar"


def both(number: int, pixels: np.ndarray) -> list[tuple[str, bytes]]:
    """What WebDataset has of a sample: its label and its image."""
    return [("cls", str(number).encode()), ("png", png(pixels))]


def write_parquet(top: Path, **options: Any) -> str:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    content = [png(pixels) for pixels in pictures()]
    table = pa.table({"label": list(range(6)), "image": content})
    parquet.write_table(table, top.with_suffix(".parquet"), row_group_size=4, **options)
    return str(top.with_suffix(".parquet"))


def write_npy(top: Path) -> str:
    np.save(top, np.stack(pictures()))
    return f"{top}.npy"


def write_npy_channels_first(top: Path) -> str:
    np.save(top, np.stack(pictures()).transpose(0, 3, 1, 2))
    return f"{top}.npy"


def write_npz(top: Path) -> str:
    np.savez(top, photos=np.stack(pictures()), labels=np.arange(6))
    return f"{top}.npz"


def write_packed_npz(top: Path) -> str:
    np.savez_compressed(top, photos=np.asfortranarray(np.stack(pictures())))
    return f"{top}.npz#photos"


def write_npz_of_single_images(top: Path) -> str:
    np.savez(top, **{f"p{number}": pixels for number, pixels in enumerate(pictures())})
    return f"{top}.npz"


FORMS: dict[str, Callable[[Path], str]] = {
    "folder": write_folder,
    "shards": write_shards,
    "parquet": write_parquet,
    "npy": write_npy,
    "channels first": write_npy_channels_first,
    "npz": write_npz,
    "compressed npz": write_packed_npz,
    "npz of single images": write_npz_of_single_images,
}


def facts(found: Photographs) -> dict[str, Any]:
    """What has to be the same in all forms."""
    return {
        side: [(photo.hash, photo.pixels.tolist()) for photo in photos]
        for side, photos in (("train", found.train), ("held_out", found.held_out))
    }


@pytest.fixture(scope="module")
def wanted() -> dict[str, Any]:
    images = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in pictures()]
    return {image_hash(from_uint8(image)): image.tolist() for image in images}


@pytest.fixture(scope="module")
def of_a_folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return facts(load(write_folder(tmp_path_factory.mktemp("a") / "x"), held_out_fraction=SHARE))


@pytest.mark.slow
@pytest.mark.parametrize("memory_mib", [2048, 0])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_pictures_are_the_same_in_every_form(
    tmp_path: Path,
    form: str,
    memory_mib: int,
    wanted: dict[str, Any],
    of_a_folder: dict[str, Any],
) -> None:
    source = FORMS[form](tmp_path / "x")
    found = facts(load(source, held_out_fraction=SHARE, memory_mib=memory_mib))
    assert found == of_a_folder
    assert dict(found["train"] + found["held_out"]) == wanted
    assert 0 < len(found["held_out"]) < 4
    images, _ = images_to_test([source], 12, None)
    assert [image.source_hash for image in images] == list(wanted)
    tuned, _ = images_to_tune_on([source], 12, 6)
    assert {image.source_hash for image in tuned} == set(wanted)


HUGGING_FACE = """
import sys
from importlib.metadata import distribution
installed = str(distribution("datasets").locate_file(""))
sys.path[:0] = [ROOT, installed] if FIRST else [installed, ROOT]
import datasets  # ours, in a checkout
assert hasattr(datasets, "NAMES") == FIRST
import json, logging, warnings
from pathlib import Path
from hyperinit.base.errors import InputError
from hyperinit.photos.load import is_set, load
from hyperinit.data import hugging_face
theirs = hugging_face._package()
def facts(found):
    return {
        side: [(photo.hash, photo.pixels.tolist()) for photo in photos]
        for side, photos in (("train", found.train), ("held_out", found.held_out))
    }
def said(spec, **options):
    try:
        load(spec, **options)
    except InputError as error:
        return str(error)
top = Path(TOP)
files = sorted(str(path) for path in (top / "folder").iterdir())
content = [open(file, "rb").read() for file in files]
images = theirs.Dataset.from_dict({"label": list(range(6)), "image": files})
images.cast_column("image", theirs.Image()).save_to_disk(top / "paths")
embedded = theirs.Dataset.from_dict({"image": [{"bytes": c, "path": None} for c in content]})
embedded = embedded.cast_column("image", theirs.Image())
embedded.save_to_disk(top / "bytes")
theirs.DatasetDict({"train": embedded, "test": embedded.select([0])}).save_to_disk(top / "dict")
theirs.Dataset.from_dict({"jpg": content[:2] + [b"none", None]}).save_to_disk(top / "some")
theirs.Dataset.from_dict({"text": ["a"]}).save_to_disk(top / "text")
embedded.to_parquet(top / "named" / "train.parquet")
embedded.rename_column("image", "bild der woche").to_parquet(top / "laid out" / "train.parquet")
real = theirs.load_dataset
def by_name(name, config, *, split, streaming):  # as the hub would, without a network
    if Path(name).is_dir():
        return real(name, config, split=split, streaming=streaming)
    if name != "user/set":
        raise FileNotFoundError("Dataset 'x' doesn't exist\\n on the Hub")
    files = str(top / "named" / "train.parquet")
    return real("parquet", data_files={split: files}, split=split, streaming=streaming)
theirs.load_dataset = by_name
share = {"held_out_fraction": SHARE}
some = load(str(top / "some"), held_out_fraction=0)
print(json.dumps({
    "paths": facts(load(str(top / "paths"), memory_mib=0, **share)),
    "bytes": facts(load(str(top / "bytes"), **share)),
    "dict": facts(load(f"hf:{top}/dict:train#image", **share)),
    "named": facts(load("hf:user/set", **share)),
    "streamed": facts(load("hf:user/set", limit=6, memory_mib=0, **share)),
    "laid out": facts(load(f"hf:{top}/laid out", **share)),
    "streamed from disk": facts(load(f"hf:{top}/laid out", limit=6, **share)),
    "two": len(load("hf:user/set", limit=2, held_out_fraction=0).train),
    "some": [len(some.train), some.skipped],
    "said": [
        said(f"hf:{top}/dict:tast"), said(f"hf:{top}/bytes#jpg"), said(f"{top}/text"),
        said("hf:nobody/nothing"), said(f"{top}/bytes", weights={"a": 1}),
    ],
}))
"""


@pytest.mark.long  # two imports of that package
@pytest.mark.parametrize("first", [False, True], ids=["installed", "in a checkout"])
def test_hugging_face_sets_are_the_same_pictures(
    tmp_path: Path, of_a_folder: dict[str, Any], first: bool
) -> None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("datasets")
    except PackageNotFoundError:
        pytest.skip("the extra hf is not installed")
    write_folder(tmp_path / "folder")
    code = f"ROOT, TOP, SHARE, FIRST = {str(ROOT)!r}, {str(tmp_path)!r}, {SHARE}, {first}"
    done = subprocess.run(
        [sys.executable, "-c", code + HUGGING_FACE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HOME": "/"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = json.loads(json.dumps(of_a_folder))
    for form in ("paths", "bytes", "dict", "named", "laid out"):
        assert found[form] == expected, form
    for form in ("streamed", "streamed from disk"):
        assert {tuple(map(str, p)) for p in found[form]["train"]} == {
            tuple(map(str, p)) for p in expected["train"]
        }
    assert found["two"] == 2
    count, skipped = found["some"]
    assert count == 2 and [name[-8:] for name, _ in skipped] == ["[000002]", "[000003]"]
    assert "not an image" in skipped[0][1] and "nothing" in skipped[1][1]
    split, column, text, nowhere, weights = found["said"]
    assert "'tast'" in split and "'test'" in split
    assert "column" in column and "'jpg'" in column and "image" in column
    assert "no column of images" in text
    assert "hf:nobody/nothing" in nowhere and "Hub" in nowhere
    assert "weights" in weights
    assert not any("\n" in line for line in found["said"])


# Crops: exact at a step, in any number of threads and processes


@pytest.mark.parametrize("form", ["folder", "shards", "npy"])
def test_batches_do_not_depend_on_memory_threads_or_processes(tmp_path: Path, form: str) -> None:
    source = FORMS[form](tmp_path / "x")
    in_memory = CropSampler(load(source).train, 8, seed=3)
    read_again = CropSampler(load(source, memory_mib=0).train, 8, seed=3)
    batches = [in_memory.batch(step, 5) for step in range(6)]
    ahead = Ahead(read_again, 2)
    assert all(torch.equal(ahead.batch(s, 5), batch) for s, batch in enumerate(batches))
    resumed = Ahead(read_again, 3)  # from a step in the middle, and back
    for step in (4, 5, 0):
        assert torch.equal(resumed.batch(step, 5), batches[step])
    for processes in (2, 3, 7):
        parts = [read_again.batch(2, 5, range(r, 5, processes)) for r in range(processes)]
        together = torch.empty_like(batches[2])
        for rank, part in enumerate(parts):
            together[rank::processes] = part
        assert torch.equal(together, batches[2])


def test_a_process_reads_its_own_rows_alone(tmp_path: Path) -> None:
    read: list[int] = []

    def made(index: int) -> torch.Tensor:
        read.append(index)
        return synthetic_image(index, 8)

    source = Source("made", [f"{i}" for i in range(50)], made)
    photos = keep_photos(source, keep_side=None, memory_mib=0, skipped=[])
    read.clear()
    CropSampler(photos, 8, seed=0).batch(0, 8, range(1, 8, 4))
    assert len(read) == 2


def test_what_goes_wrong_in_a_thread_is_said_at_its_step(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x")
    ahead = Ahead(CropSampler(load(source, memory_mib=0).train, 8, seed=0), 2)
    for path in (tmp_path / "x").iterdir():
        path.write_bytes(png(255 - pictures()[0]))
    with pytest.raises(InputError, match=r"\d\d\d.png: was changed while in use"):
        for step in range(20):
            ahead.batch(step, 5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["shards", "parquet", "npz"])
def test_a_run_on_other_data_is_resumed_exactly(tmp_path: Path, form: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(FORMS[form](tmp_path / "x")).relative_to(tmp_path)
    tiny = ["meta-train", "--preset", "tiny", "--wandb", "disabled", "--compare-images", "0"]
    tiny += ["--data", str(source), "--warmup-steps", "1", "--data-workers", "2"]
    assert main([*tiny, "--max-steps", "6", "--out", "whole"]) == 0
    assert main([*tiny, "--max-steps", "6", "--time-limit", "1e-9", "--out", "parts"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the data are found from any directory
    flags = ["--time-limit", "none", "--data-workers", "0", "--data-memory-mib", "0"]
    assert main(["meta-train", "--resume", "../parts", *flags]) == 0
    losses = []
    for run in ("whole", "parts"):
        logged = [row.get("values", {}) for row in read_log(tmp_path / run / LOG_NAME)]
        losses.append([line["train/loss"] for line in logged if "train/loss" in line])
    assert losses[0] == losses[1] and len(losses[0]) == 6


NEWER = ("split_by", "color_profiles")  # settings that runs of the first versions do not have


@pytest.mark.slow
def test_a_run_from_before_these_settings_is_resumed_on_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_folder(tmp_path / "x")
    tagged = Image.fromarray(pictures(9)[8])
    tagged.save(tmp_path / "x" / "p3.png", icc_profile=rgb_profile(DISPLAY_P3))
    tiny = ["meta-train", "--preset", "tiny", "--wandb", "disabled", "--compare-images", "0"]
    tiny += ["--data", source, "--held-out-fraction", "0.3", "--time-limit", "1e-9"]
    assert main([*tiny, "--split-by", "name", "--no-color-profiles", "--out", "old"]) == 0
    assert main([*tiny, "--out", "new"]) == 0
    for run in ("old", "new"):  # as it was written then: without the settings
        path = tmp_path / run / CHECKPOINT_NAME
        tensors, info = load_tensors(path, HYPERNETWORK.kind)
        for name in NEWER:
            del info["train"][name]
        save_tensors(path, tensors, HYPERNETWORK.kind, info)
        settings = path.with_name("config.toml")
        kept = [line for line in settings.read_text().splitlines() if not line.startswith(NEWER)]
        settings.write_text("\n".join(kept))
    assert main(["meta-train", "--resume", "old"]) == 0
    with pytest.raises(SystemExit):
        main(["meta-train", "--resume", "new"])
    assert "not the training images this run began with" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_images() -> None:
    alive = most = 0

    @dataclass(eq=False)
    class Made:
        """Counts the images in memory."""

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def made(index: int) -> torch.Tensor:
        nonlocal alive, most
        image = torch.full((3, 4, 4), index / 3000)
        image.counted = Made()  # type: ignore[attr-defined]
        alive, most = alive + 1, max(most, alive + 1)
        return image

    source = Source("made", [f"{i}" for i in range(3000)], made)
    photos = keep_photos(source, keep_side=None, memory_mib=0, skipped=[])
    for step in range(3):
        CropSampler(photos, 4, seed=0).batch(step, 8)
    assert most <= 2


# What reading everything found is recorded where that took long


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of its own, and every reading takes long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("hyperinit.photos.stored.RECORD_SEC", -1.0)
    return tmp_path / "cache" / "hyperinit" / "read"


@pytest.mark.parametrize("form", ["folder", "shards", "npy"])
@pytest.mark.parametrize("memory_mib", [0, 2048])
def test_a_set_that_took_long_to_read_is_opened_at_once(
    tmp_path: Path, form: str, memory_mib: int, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FORMS[form](tmp_path / "x")
    if form == "folder":
        (tmp_path / "x" / "bad.png").write_bytes(b"nothing")
    options = {"memory_mib": memory_mib, "held_out_fraction": SHARE}
    first = load(source, **options)
    decoded: list[object] = []
    real = Source.__init__

    def counting(self: Source, *arguments: Any, **fields: Any) -> None:
        real(self, *arguments, **fields)
        read = self.read
        object.__setattr__(self, "read", lambda index: decoded.append(index) or read(index))

    monkeypatch.setattr(Source, "__init__", counting)
    again = load(source, **options)
    # What could not be used then is tried again, as a package or a permission may be there by now.
    assert decoded == [6] * (form == "folder") and again == first and again.skipped == first.skipped
    decoded.clear()
    assert facts(again) == facts(first)
    assert len(decoded) == 6
    assert facts(again) == facts(first)
    assert len(decoded) == (12 if memory_mib == 0 else 6)  # drawn once, they stay where they may


def test_a_record_holds_as_long_as_the_files(tmp_path: Path, recorded: Path) -> None:
    source = write_folder(tmp_path / "x")
    first = load(source, held_out_fraction=0)
    assert len(list(recorded.iterdir())) == 1
    (tmp_path / "x" / "000.png").write_bytes(png(255 - pictures()[0]))
    changed = load(source, held_out_fraction=0)
    assert changed.train[0].hash != first.train[0].hash and changed.train[1] == first.train[1]
    assert load(source, held_out_fraction=0, profiles=False) == changed  # has one of its own
    assert len(list(recorded.iterdir())) == 3
    for path in recorded.iterdir():
        path.write_bytes(b"damaged")
    assert load(source, held_out_fraction=0) == changed
    recorded.rename(recorded.with_name("old"))
    recorded.touch()  # no directory can be made there
    assert load(source, held_out_fraction=0) == changed


def test_a_record_does_not_leave_out_what_can_be_read_by_now(
    tmp_path: Path, recorded: Path
) -> None:
    (tmp_path / "file").touch()
    missing = "needs a package"

    def read(index: int) -> torch.Tensor:
        if missing and index == 1:
            raise InputError(missing)
        return torch.full((3, 4, 4), index / 3)

    def names() -> tuple[list[str], list[tuple[str, str]]]:
        twice = (("b", "another file in the archive has this name"),)
        files = [str(tmp_path / "file")]
        source = Source("made", ["a", "b", "c"], read, skipped=twice, files=files)
        skipped: list[tuple[str, str]] = []
        photos = keep_photos(source, keep_side=None, skipped=skipped)
        return [photo.name for photo in photos], skipped[1:]

    assert names() == names() == (["a", "c"], [("b", "needs a package")])
    assert len(list(recorded.iterdir())) == 1
    missing = "is damaged"
    assert names() == (["a", "c"], [("b", "is damaged")])
    missing = ""
    assert names() == names() == (["a", "b", "c"], [])


# Splits


def test_the_split_is_by_content_whatever_names_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x")
    held = {photo.hash for photo in load(folder, held_out_fraction=SHARE).held_out}
    for number, path in enumerate(sorted((tmp_path / "x").iterdir())):
        path.rename(path.with_name(f"other-{9 - number}.png"))
    assert {photo.hash for photo in load(folder, held_out_fraction=SHARE).held_out} == held
    by_name = load(folder, held_out_fraction=SHARE, split_by="name")
    assert by_name.held_out and {photo.hash for photo in by_name.held_out} != held


def test_large_groups_are_held_out_no_more_often_than_small_ones() -> None:
    images = [torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(i)) for i in range(2400)]
    source = Source("x", [f"{i:04d}" for i in range(2400)], images.__getitem__)
    tiles = replace(source, groups=lambda tiles: [f"{i // 12}" for i in range(2400)])
    found = keep_photos(tiles, keep_side=None, skipped=[])
    from hyperinit.photos.photographs import split_by_group

    _, held = split_by_group(found, 0.1)
    assert 6 < len({photo.group for photo in held}) < 36  # of 200


def test_what_shards_have_of_one_sample_stays_together(tmp_path: Path) -> None:
    members = []
    for number, pixels in enumerate(pictures(40)):
        members += [
            (f"{number:03d}.left.png", png(pixels)),
            (f"{number:03d}.jpg", png(pixels[::-1])),
        ]
    write_tar(tmp_path / "a.tar", members)
    found = load(tmp_path / "a.tar", held_out_fraction=SHARE)
    groups = [{photo.group for photo in side} for side in (found.train, found.held_out)]
    assert groups[1] and not groups[0] & groups[1] and len(groups[0] | groups[1]) == 40


def test_tiles_stay_together_across_shards(tmp_path: Path) -> None:
    tiles = [(f"{n // 4:03d}_{n % 4:02d}.png", png(p)) for n, p in enumerate(pictures(40))]
    write_tar(tmp_path / "s-0.tar", tiles[:18])
    write_tar(tmp_path / "s-1.tar", tiles[18:])
    found = load(f"{tmp_path}/s-{{0..1}}.tar", held_out_fraction=SHARE)
    groups = [{photo.group for photo in side} for side in (found.train, found.held_out)]
    assert groups[1] and not groups[0] & groups[1] and len(groups[0] | groups[1]) == 10
    alone = load(f"{tmp_path}/s-{{0..1}}.tar", group_tiles=False)
    assert len({photo.group for photo in alone.train + alone.held_out}) == 40


def test_a_limit_is_a_fixed_choice_in_every_form(tmp_path: Path) -> None:
    for form in ("shards", "parquet", "npy", "compressed npz"):
        source = FORMS[form](tmp_path / form.replace(" ", ""))
        few = load(source, limit=4, held_out_fraction=0)
        assert len(few.train) == 4 and few == load(source, limit=4, held_out_fraction=0)


# What is typed


def test_ranges_and_patterns_are_files_in_order(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"s-{number:03d}.tar").touch()
    names = [Path(path).name for path in expand(f"{tmp_path}/s-{{008..011}}.tar")]
    assert names == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert len(expand(f"{tmp_path}/s-*.tar")) == 12
    assert len(expand(f"{tmp_path}/s-{{0..0}}{{00..11}}.tar")) == 12
    (tmp_path / "s-{1..2}.tar").touch()
    assert expand(f"{tmp_path}/s-{{1..2}}.tar") == [f"{tmp_path}/s-{{1..2}}.tar"]
    for wrong, said in (
        ("s-{000..012}.tar", "s-012.tar: no such file"),
        ("s-{9..1}.tar", "is not a range"),
        ("s-{0..99999999999999999}.tar", "more than"),
        ("t-*.tar", "no such file"),
        ("s-00?.t{0..1}", "no such file"),
    ):
        with pytest.raises(InputError, match=said):
            expand(f"{tmp_path}/{wrong}")


def test_data_are_stored_so_that_any_directory_finds_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for typed, stored in {
        "s-{0..3}.tar": f"{tmp_path}/s-{{0..3}}.tar",
        "a.parquet#image": f"{tmp_path}/a.parquet#image",
        "set": f"{tmp_path}/set",
        "hf:set:train#image": f"hf:{tmp_path}/set:train#image",
        "hf:user/name": "hf:user/name",
        "synthetic": "synthetic",
    }.items():
        assert with_absolute_data(TrainConfig(data=typed)).data == stored
        assert absolute(absolute(typed)) == absolute(typed)


# Files that are wrong


def refusal(source: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def skipped_of(source: str, usable: int = 6) -> dict[str, str]:
    found = load(source, held_out_fraction=0)
    assert len(found.train) == usable
    assert not any("\n" in reason for _, reason in found.skipped)
    return dict(found.skipped)


def test_members_that_are_no_pictures_are_skipped_and_listed(tmp_path: Path) -> None:
    good = [(f"{n}.png", png(pixels)) for n, pixels in enumerate(pictures())]
    bad = [
        ("../../etc/up.png", png(pictures()[0])),
        ("/root.png", png(pictures()[0])),
        ("text.jpg", b"hello"),
        ("half.png", png(pictures()[0])[:90]),
        ("empty.png", b""),
        ("0.png", png(pictures()[1])),
        ("notes.txt", b"passed over"),
        ("._0.png", b"passed over"),
    ]
    path = write_tar(tmp_path / "a.tar", good + bad)
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "soft.png"), (tarfile.LNKTYPE, "hard.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
        device = tarfile.TarInfo("pipe.png")
        device.type = tarfile.FIFOTYPE
        archive.addfile(device)
    reasons = skipped_of(str(path))
    assert {
        name.removeprefix("a.tar/"): reason.split(":")[0] for name, reason in reasons.items()
    } == {
        "../../etc/up.png": "its name leads out of the archive",
        "/root.png": "its name leads out of the archive",
        "text.jpg": "not an image in a format that can be read",
        "half.png": "unreadable image",
        "empty.png": "not an image in a format that can be read",
        "0.png": "another file in the archive has this name",
        "soft.png": "is a link, not a file",
        "hard.png": "is a link, not a file",
        "pipe.png": "is not a plain file",
    }
    assert not (tmp_path.parent / "etc").exists()


@pytest.mark.parametrize("left", [0.4, 0.6, 0.8, 0.97])
def test_a_truncated_archive_gives_what_is_whole(tmp_path: Path, left: float) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n}.png", png(p)) for n, p in enumerate(pictures())])
    content = path.read_bytes()
    end = content.rstrip(b"\0")
    path.write_bytes(content[: int(len(end) * left)])
    found = load(str(path), held_out_fraction=0)
    assert 0 < len(found.train) < 6
    assert found.skipped and all(name.startswith("a.tar") for name, _ in found.skipped)


def test_a_damaged_header_in_the_middle_is_noted(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n}.png", png(p)) for n, p in enumerate(pictures())])
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2].offset
    content[third : third + 512] = b"\xff" * 512
    path.write_bytes(content)
    reasons = skipped_of(str(path), usable=2)
    assert list(reasons) == ["a.tar"] and "damaged at byte" in reasons["a.tar"]


def test_a_size_beyond_the_archive_is_skipped(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n}.png", png(p)) for n, p in enumerate(pictures())])
    huge = tarfile.TarInfo("huge.png")
    huge.size = 2**40
    path.write_bytes(path.read_bytes().rstrip(b"\0") + bytes(0))
    content = path.read_bytes()
    path.write_bytes(content + bytes(-len(content) % 512) + huge.tobuf(tarfile.GNU_FORMAT))
    reasons = skipped_of(str(path))
    assert any("MiB are too much" in reason for reason in reasons.values())


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 99, bytes(10240)])
def test_what_is_no_archive_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    assert "a.tar: no usable image" in refusal(f"{tmp_path}/a.tar")


@pytest.mark.parametrize("name", ["a.parquet", "s-000.tar", "stack.npz"])
def test_a_directory_of_other_kinds_of_data_says_how_to_name_them(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "README.md").write_text("")
    said = refusal(str(tmp_path))
    assert f"no image files there, but {name}: give its own path" in said and "hf:" in said


def test_a_bad_shard_among_good_ones_is_listed(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "x")
    (tmp_path / "x/s-02.tar").write_bytes(b"nothing")
    assert list(skipped_of(pattern.replace("01}", "02}"))) == ["s-02.tar"]
    assert "s-03.tar: no such file" in refusal(pattern.replace("01}", "03}"))


def test_compressed_shards_say_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar.gz").read_bytes())
    (tmp_path / "c.tar.bz2").write_bytes(bz2.compress(b"any"))
    (tmp_path / "d.tar.xz").write_bytes(lzma.compress(b"any"))
    (tmp_path / "e.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd and more")
    packed = {"a.tar.gz": "gzip", "b.tar": "gzip", "c.tar.bz2": "bzip2", "d.tar.xz": "xz"}
    for name, how in {**packed, "e.tar.zst": "zstd"}.items():
        assert is_set(f"{tmp_path}/{name}")
        assert f"({how})" in (said := refusal(f"{tmp_path}/{name}")) and "unpack it" in said


def test_a_misspelt_set_is_told_from_a_picture() -> None:
    assert is_set("torchvision:pet")
    with pytest.raises(InputError, match="did you mean 'torchvision:pets'"):
        open_source("torchvision:pet")


def test_parquet_files_that_are_wrong(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"

    def said(columns: dict[str, Any], field: str = "") -> str:
        parquet.write_table(pa.table(columns), path)
        return refusal(f"{path}{field}")

    one = [png(pictures()[0])]
    assert "a.parquet: has no column 'jpg'; it has image" in said({"image": one}, "#jpg")
    assert "column 'n' must hold encoded images, not int64" in said({"n": [1], "i": one}, "#n")
    assert "no column of encoded images; it has n (int64)" in said({"n": [1]})
    assert "with one of a, b" in said({"a": one, "b": one})
    assert "no usable image" in said({"image": pa.array([], pa.binary())})
    assert "nothing" in said({"image": pa.array([None], pa.binary())})
    path.write_bytes(b"PAR1 and no more")
    assert "a.parquet: not a Parquet file" in refusal(str(path))
    some = pa.array([{"bytes": c, "path": None} for c in (*one, None, b"text")])
    parquet.write_table(pa.table({"image": some}), path)
    reasons = skipped_of(str(path), usable=1)
    assert list(reasons) == ["a.parquet[000001]", "a.parquet[000002]"]
    elsewhere = pa.array([{"bytes": one[0], "path": "0.png"}, {"bytes": None, "path": "1.png"}])
    parquet.write_table(pa.table({"image": elsewhere}), path)
    reasons = skipped_of(str(path), usable=1)
    assert "only the path '1.png'" in reasons["a.parquet[000001]"]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view"])
def test_bytes_of_any_arrow_type_are_images(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    column = pa.array([png(pictures()[0])], getattr(pa, kind)())
    parquet.write_table(pa.table({"n": [1], "bild": column}), tmp_path / "a.parquet")
    found = load(f"{tmp_path}/a.parquet", held_out_fraction=0).train
    assert torch.equal(to_uint8(found[0].image).permute(1, 2, 0), torch.from_numpy(pictures()[0]))


def test_a_parquet_file_damaged_inside_skips_its_rows(tmp_path: Path) -> None:
    path = Path(write_parquet(tmp_path / "a", compression="none"))
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    found = load(str(path), held_out_fraction=0)
    assert len(found.train) == 2 and len(found.skipped) == 4  # the second row group is whole


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([{"a": 1}, None], dtype=object), "objects are not read"),
        (np.zeros((2, 3), dtype=np.uint8), "its shape is (2, 3)"),
        (np.zeros((2, 4, 4, 5), dtype=np.uint8), "its shape is (2, 4, 4, 5)"),
        (np.zeros((0, 4, 4, 3), dtype=np.uint8), "its shape is (0, 4, 4, 3)"),
        (np.zeros((2, 4, 4, 3), dtype=np.int64), "int64"),
        (np.zeros((2, 4, 4), dtype="U3"), "<U3"),
        (np.zeros((2, 4, 4), dtype=[("r", "u1")]), "not uint8"),
        (np.full((2, 4, 4, 3), np.nan, dtype=np.float32), "nan"),
        (np.full((2, 4, 4, 3), 255.0), "255"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_no_images(
    tmp_path: Path, array: np.ndarray, said: str, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
        assert said in (message := refusal(str(path))) and "a.npy" in message
    else:
        np.savez(path, x=array, allow_pickle=True)
        assert said in (message := refusal(f"{path}#x")) and "a.npz" in message
        assert any(words in refusal(str(path)) for words in (said, "no usable image"))


def test_single_bad_images_of_a_stack_are_skipped(tmp_path: Path) -> None:
    stack = np.stack([pixels / np.float32(255) for pixels in pictures()])
    stack[1, 0, 0, 0] = np.nan
    stack[4, 0, 0, 0] = np.inf
    np.save(tmp_path / "a.npy", stack)
    reasons = skipped_of(f"{tmp_path}/a.npy", usable=4)
    assert list(reasons) == ["a.npy[000001]", "a.npy[000004]"]


def test_array_files_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"no array")
    assert "a.npy: cannot be read" in refusal(str(path))
    np.save(path, np.stack(pictures()))
    path.write_bytes(path.read_bytes()[:-1])
    assert "ends before the array does" in refusal(str(path))
    facts = {"descr": "|u1", "fortran_order": False, "shape": (2**62, 9, 9, 3)}
    header = repr(facts)
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    assert "ends before the array does" in refusal(str(path))
    assert "has no array 'x'" in refusal(f"{write_npy(tmp_path / 'b')}#x")
    npz = write_npz(tmp_path / "c")
    assert "has no array 'x'; it has labels, photos" in refusal(f"{npz}#x")
    assert skipped_of(npz) == {}  # labels are no pictures that are missing
    Path(npz).write_bytes(Path(npz).read_bytes()[:2000])
    assert "c.npz: cannot be read" in refusal(npz)
    with zipfile.ZipFile(npz, "w"):
        pass
    assert "c.npz: it holds no array of images (it is empty)" in refusal(npz)


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_an_array_that_is_cut_off_while_it_is_in_use_is_one_line(tmp_path: Path, save: Any) -> None:
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, np.zeros((500, 32, 32, 3), np.uint8))
    source = open_source(str(path))
    source.read(0)
    os.truncate(path, 5000)  # as by a program that writes it anew
    with pytest.raises(InputError, match="ends before the array does"):
        source.read(400)


def test_grey_and_16_bit_stacks_are_as_single_arrays(tmp_path: Path) -> None:
    grey = np.stack([pixels[..., 0].astype(np.uint16) * 257 for pixels in pictures()])
    for shape in (grey, grey[..., None], grey[:, None]):
        np.save(tmp_path / "a.npy", shape)
        found = load(f"{tmp_path}/a.npy", held_out_fraction=0)
        assert [photo.hash for photo in found.train] == [image_hash(to_image(g)) for g in grey]


@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
@pytest.mark.parametrize("kind", ["uint16", "float16", "float32", "float64"])
def test_stacks_of_every_type_are_the_same_pictures(tmp_path: Path, kind: str, first: bool) -> None:
    stack = np.stack(pictures())
    values = stack.astype(kind) * 257 if kind == "uint16" else (stack / 255).astype(kind)
    np.savez(tmp_path / "a", x=values.transpose(0, 3, 1, 2) if first else values)
    found = load(f"{tmp_path}/a.npz", held_out_fraction=0)
    shown = [to_uint8(photo.image).permute(1, 2, 0).numpy() for photo in found.train]
    assert np.array_equal(np.stack(shown), stack)


@pytest.mark.parametrize(
    ("data", "module", "extra"),
    [("x.parquet", "pyarrow.parquet", "parquet"), ("hf:user/set", "datasets", "hf")],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    tmp_path: Path, data: str, module: str, extra: str, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    said = fails(["meta-train", "--data", data, "--out", "run"], capsys)
    assert f"hyperinit[{extra}]" in said
    assert not (tmp_path / "run").exists()


def test_options_for_folders_alone_are_refused(tmp_path: Path) -> None:
    assert "weights" in refusal(write_npy(tmp_path / "a"), weights={"a": 1})
    assert "memory_mib" in refusal(write_npy(tmp_path / "a"), memory_mib=-1)
