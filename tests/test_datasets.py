from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from hyperinit.base.errors import InputError
from hyperinit.images.pixels import image_hash, resize, square_crop
from hyperinit.images.save import save_image
from hyperinit.photos.builtin import FILES
from hyperinit.photos.folder import photograph_of
from hyperinit.photos.photographs import make_photo, split_by_group
from hyperinit.photos.synthetic import synthetic_image
from hyperinit.photos.torchvision_sets import SETS, load_torchvision


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(top: Path, *names: str, side: int = 8) -> None:
    """A different image under each name."""
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(name.encode(), "little") % 2**31
        save_image(synthetic_image(seed, side), path)


def photo(name: str, group: str, seed: int | None = None) -> datasets.Photo:
    seed = sum(name.encode()) if seed is None else seed
    return make_photo(name, group, synthetic_image(seed, 8), keep_side=None)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# Splits and crops


def test_split_keeps_groups_whole_and_does_not_depend_on_order_or_company() -> None:
    photos = [photo(f"{g}_{t}", str(g), seed=10 * g + t) for g in range(60) for t in range(3)]
    train, held_out = split_by_group(photos, 0.1)
    held = {p.group for p in held_out}
    assert 1 <= len(held) <= 15 and len(train) + len(held_out) == 180
    assert not held & {p.group for p in train}
    backwards = split_by_group(photos[::-1], 0.1)[1]
    assert {p.name for p in backwards} == {p.name for p in held_out}
    some = [p for p in photos if p.group in held or int(p.group) < 30]
    assert {p.group for p in split_by_group(some, 0.1)[1]} == held


@pytest.mark.parametrize("fraction", [1e-9, 0.05, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_split_always_leaves_something_on_both_sides(fraction: float, count: int) -> None:
    photos = [photo(str(index), str(index)) for index in range(count)]
    train, held_out = split_by_group(photos, fraction)
    assert train and held_out


def test_split_of_one_photograph_or_of_nothing_held_out() -> None:
    tiles = [photo(f"0_{tile}", "0", seed=tile) for tile in range(4)]
    assert split_by_group(tiles, 0.9) == (tiles, [])
    several = [photo(str(index), str(index)) for index in range(50)]
    assert split_by_group(several, 0) == (several, [])
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="held_out_fraction"):
            split_by_group(several, wrong)


def test_identical_images_never_end_on_both_sides() -> None:
    # Copies chain the groups together: 0 ~ 1 ~ 2 ~ ... all show a common image.
    chained = [photo(f"{g}_{side}", str(g), seed=g + side) for g in range(40) for side in (0, 1)]
    others = [photo(f"x{index}", f"x{index}", seed=1000 + index) for index in range(40)]
    for fraction in (0.2, 0.5, 0.8):
        train, held_out = split_by_group(chained + others, fraction)
        assert not {p.hash for p in train} & {p.hash for p in held_out}
        assert len({p in train for p in chained}) == 1


def test_photo_is_reduced_but_identified_by_the_original() -> None:
    image = synthetic_image(0, 96)[:, :48]  # (3, 48, 96)
    kept = make_photo("a", "a", image, keep_side=24)
    assert kept.pixels.shape == (3, 24, 48) and kept.pixels.dtype == torch.uint8
    assert kept.hash == image_hash(image)
    later, direct = square_crop(kept.image, 12), square_crop(image, 12)
    assert (later - direct).abs().max() < 1 / 255
    assert make_photo("a", "a", image, keep_side=48).pixels.shape == (3, 48, 96)


@pytest.mark.slow
def test_random_crop_is_a_flipped_or_plain_square_of_the_image() -> None:
    # The red channel is the column and green the row, so a crop tells where it was taken.
    y, x = torch.meshgrid(torch.arange(100), torch.arange(140), indexing="ij")
    image = torch.stack((x / 140, y / 140, torch.zeros(100, 140)))
    generator = torch.Generator().manual_seed(0)
    crops = [datasets.random_crop(image, 10, generator=generator) for _ in range(400)]
    assert all(crop.shape == (3, 10, 10) for crop in crops)
    across = torch.stack([(crop[0, 0, -1] - crop[0, 0, 0]) * 140 / 0.9 for crop in crops])
    down = torch.stack([(crop[1, -1, 0] - crop[1, 0, 0]) * 140 / 0.9 for crop in crops])
    assert torch.allclose(across.abs(), down, atol=0.1)  # squares, never upside down
    assert 0.4 < (across < 0).float().mean() < 0.6
    assert 9.9 < down.min() < 11 and 90 < down.max() < 100.1
    assert 25 < down.median() < 40  # log-uniform: the middle is sqrt(10 * 100)
    lefts = torch.stack([crop[0].min() for crop in crops])
    assert lefts.min() < 0.05 and lefts.max() > 0.85  # up to the borders


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_random_crop_of_an_image_smaller_than_the_crop(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        crop = datasets.random_crop(torch.full((3, *shape), 0.6), 16, generator=generator)
        assert torch.allclose(crop, torch.full((3, 16, 16), 0.6))


def test_min_scale_sets_the_smallest_square() -> None:
    image = torch.arange(64.0).expand(3, 64, 64) / 64
    generator = torch.Generator().manual_seed(0)
    crops = [datasets.random_crop(image, 16, generator=generator, min_scale=4.0) for _ in range(5)]
    assert all(torch.allclose(crop.mean(), image.mean()) for crop in crops)


def test_fixed_crops_are_the_centre_square_and_its_quarters() -> None:
    image = synthetic_image(3, 32)[:, 4:28]  # (3, 24, 32)
    centre = image[:, :, 4:28]
    assert torch.equal(datasets.fixed_crops(image, 12), resize(centre, 12, 12)[None])
    crops = datasets.fixed_crops(image, 12, quadrants=True)
    assert crops.shape == (5, 3, 12, 12)
    whole = torch.cat([torch.cat([*crops[1:3]], -1), torch.cat([*crops[3:5]], -1)], -2)
    assert torch.equal(whole, centre)
    assert datasets.fixed_crops(torch.rand(3, 1, 1), 4, quadrants=True).shape == (5, 3, 4, 4)


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    photos = [photo(str(index), str(index)) for index in range(5)]
    sampler = datasets.CropSampler(photos, 4, seed=7)
    first = [sampler.batch(step, 6) for step in range(4)]
    assert first[0].shape == (6, 3, 4, 4) and first[0].dtype == torch.float32
    assert first[0].min() >= 0 and first[0].max() <= 1
    torch.manual_seed(99)  # neither global state nor earlier batches matter
    resumed = datasets.CropSampler(photos, 4, seed=7)
    assert torch.equal(resumed.batch(3, 6), first[3]) and torch.equal(resumed.batch(1, 6), first[1])
    assert not torch.equal(first[0], first[1])
    other = datasets.CropSampler(photos, 4, seed=8).batch(0, 6)
    assert not any(torch.equal(other, batch) for batch in first)


@pytest.mark.slow
def test_sampling_follows_the_weights() -> None:
    colours = {"a": 0.0, "b": 0.5, "c": 1.0}
    weights = {"a": 3.0, "b": 1.0, "c": 0.0}
    photos = [
        make_photo(n, n, torch.full((3, 4, 4), colours[n]), keep_side=None, weight=weights[n])
        for n in colours
    ]
    drawn = datasets.CropSampler(photos, 2, seed=0).batch(0, 2000)[:, 0, 0, 0]
    assert 0.7 < (drawn == 0).float().mean() < 0.8
    assert not (drawn == 1).any()


def test_sampler_refuses_what_it_cannot_sample() -> None:
    never = make_photo("a", "a", torch.zeros(3, 4, 4), keep_side=None, weight=0.0)
    for photos in ([], [never]):
        with pytest.raises(InputError, match="no photographs"):
            datasets.CropSampler(photos, 4, seed=0)
    with pytest.raises(InputError, match="crop size"):
        datasets.CropSampler([photo("a", "a")], 0, seed=0)


# Folders


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("clic/000_01.jpg", "clic/000"),
        ("000_12.png", "000"),
        ("a/b/cat.png", "a/b/cat"),
        ("my_cat.png", "my_cat"),
        ("a_b_3.png", "a_b_3"),
        ("photo_001.jpg", "photo_001"),
        ("IMG_1234_2.jpg", "IMG_1234"),
        ("IMG_1234.jpg", "IMG_1234"),
        ("v1.2_07.jpg", "v1.2"),
        ("_01.jpg", "_01"),
    ],
)
def test_tiles_share_the_photograph_they_were_cut_from(name: str, group: str) -> None:
    assert photograph_of(name) == group


def test_folder_is_split_by_photograph(tmp_path: Path) -> None:
    write(tmp_path, *(f"{sub}/{n:03d}_0{t}.png" for sub in "ab" for n in range(9) for t in "01"))
    data = datasets.load(tmp_path, held_out_fraction=0.2)
    assert len(data.train) + len(data.held_out) == 36 and not data.skipped
    held = {p.group for p in data.held_out}
    assert held and not held & {p.group for p in data.train}
    assert all(len([p for p in data.held_out if p.group == group]) == 2 for group in held)
    again = datasets.load(str(tmp_path), held_out_fraction=0.2)
    assert again == data and torch.equal(again.train[0].pixels, data.train[0].pixels)


def test_bad_files_are_skipped_and_listed(tmp_path: Path) -> None:
    write(tmp_path, "good.png", "sub/fine.jpg", side=32)
    whole = (tmp_path / "sub/fine.jpg").read_bytes()
    (tmp_path / "sub/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    Image.fromarray(np.array([[7, 70_000]], dtype=np.int32)).save(tmp_path / "depth.tif")
    (tmp_path / "README.md").write_text("not looked at")
    (tmp_path / ".hidden.png").write_text("not looked at")
    (tmp_path / ".cache").mkdir()
    write(tmp_path, ".cache/thumbnail.png")
    data = datasets.load(tmp_path)
    assert {p.name for p in data.train + data.held_out} == {"good.png", "sub/fine.jpg"}
    reasons = dict(data.skipped)
    assert reasons.keys() == {
        *("sub/truncated.jpg", "empty.png", "text.jpg", "phone.heic", "dangling.png", "depth.tif")
    }
    assert "not an image" in reasons["empty.png"] and "runcated" in reasons["sub/truncated.jpg"]
    assert all(str(tmp_path) not in reason and "\n" not in reason for reason in reasons.values())


def test_unusable_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file.png").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_text("hello")
    for path, said in [
        (tmp_path / "none", "no such directory"),
        (tmp_path / "file.png", "is a file"),
        (tmp_path / "empty", "no usable image"),
        (tmp_path / "bad", "x.png"),
    ]:
        with pytest.raises(InputError) as error:
            datasets.load(path)
        assert said in one_line(error) and path.name in str(error.value)


def test_unreadable_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", "locked/b.png")
    real = os.scandir
    locked = tmp_path / "locked"

    def scandir(path: Any) -> Any:  # the superuser, whom permissions do not stop, may run this
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    assert datasets.load(tmp_path).skipped == [("locked", "Permission denied")]
    locked = tmp_path
    with pytest.raises(InputError, match="Permission denied") as error:
        datasets.load(tmp_path)
    assert str(tmp_path) in one_line(error)


def test_copies_stay_on_one_side_of_a_folder_split(tmp_path: Path) -> None:
    for index in range(12):
        save_image(synthetic_image(index, 8), tmp_path / f"original{index}.png")
        image = Image.open(tmp_path / f"original{index}.png")
        image.save(tmp_path / f"copy-of-{11 - index}.bmp")
    data = datasets.load(tmp_path, held_out_fraction=0.5)
    assert not {p.hash for p in data.train} & {p.hash for p in data.held_out}


def test_weights_by_sub_folder(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/deep/2.png", "b/3.png", "4.png")
    data = datasets.load(tmp_path, weights={"a": 0.1, "a/deep/": 2})
    weights = {p.name: p.weight for p in data.train + data.held_out}
    assert weights == {"a/1.png": 0.1, "a/deep/2.png": 2, "b/3.png": 1, "4.png": 1}
    with pytest.raises(InputError, match="did you mean 'a/deep'"):
        datasets.load(tmp_path, weights={"a/dep": 0.1})
    for wrong in (-1.0, float("nan"), "heavy"):
        with pytest.raises(InputError, match="weight of 'a'"):
            datasets.load(tmp_path, weights={"a": wrong})  # type: ignore[dict-item]


def test_limit_and_keep_side(tmp_path: Path) -> None:
    write(tmp_path, *(f"{index}.png" for index in range(9)), side=16)
    data = datasets.load(tmp_path, limit=4, keep_side=8)
    photos = data.train + data.held_out
    assert len(photos) == 4 and all(p.pixels.shape == (3, 8, 8) for p in photos)
    assert data == datasets.load(tmp_path, limit=4, keep_side=8)


# Names


def test_builtin_photographs_have_a_fixed_split() -> None:
    data = datasets.load("builtin", keep_side=32)
    assert not data.skipped and len(data.train) + len(data.held_out) == len(FILES)
    assert {p.name for p in data.held_out} == {"astronaut.png", "chelsea.png", "coffee.png"}
    assert not {p.group for p in data.train} & {p.group for p in data.held_out}
    views = [p.group for p in data.train if p.name.startswith("motorcycle")]
    assert views == ["motorcycle"] * 2
    assert all(min(p.pixels.shape[1:]) == 32 and p.image.std() > 0.02 for p in data.train)


def test_builtin_without_scikit_image_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperinit.photos.builtin.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install scikit-image") as error:
        datasets.load("builtin")
    one_line(error)


def test_synthetic_images_are_seeded_and_varied() -> None:
    data = datasets.load("synthetic", limit=6)
    assert len(data.train) == 5 and len(data.held_out) == 1
    assert data == datasets.load("synthetic", limit=6)
    assert len({p.hash for p in data.train + data.held_out}) == 6
    assert all(p.image.shape == (3, 64, 64) and p.image.std() > 0.05 for p in data.train)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bultin", "'builtin'"),
        ("torchvision:cifar", "'torchvision:cifar10'"),
        ("", "directory"),
        ("no-such-thing", "directory"),
    ],
)
def test_unknown_names_are_answered_with_the_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        datasets.load(name)
    assert hint in one_line(error) and "synthetic" in str(error.value)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("synthetic", {"limit": 0}, "limit"),
        ("synthetic", {"keep_side": 0}, "keep_side"),
        ("synthetic", {"held_out_fraction": 1.5}, "held_out_fraction"),
        ("synthetic", {"weights": {"a": 1}}, "weights"),
        ("builtin", {"held_out_fraction": 0.1}, "held_out_fraction"),
        ("builtin", {"limit": 3}, "limit"),
        ("torchvision:pets", {"held_out_fraction": 0.1}, "held_out_fraction"),
    ],
)
def test_options_that_do_not_fit_are_refused(source: str, options: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        datasets.load(source, **options)
    one_line(error)


# torchvision, by a stand-in for the package: its sets can only be downloaded


class FakeSet:
    """Twenty images; the first held-out one is also the first to train on."""

    calls: tuple[dict[str, Any], ...] = ()

    def __init__(self, root: str, *, download: bool, **options: Any) -> None:
        FakeSet.calls = (*FakeSet.calls, {"download": download, **options})
        if not download and not Path(root, "there").exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        Path(root, "there").touch()
        self.first = 0 if options in ({"train": True}, {"split": "train"}) else 100

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 19:
            raise OSError("broken file")
        seed = self.first + index if index else 0
        pixels = (synthetic_image(seed, 8) * 255).byte().permute(1, 2, 0).numpy()
        return Image.fromarray(pixels), 3


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, class_name: str, fake: Any) -> None:
    package = ModuleType("torchvision")
    package.datasets = ModuleType("torchvision.datasets")  # type: ignore[attr-defined]
    setattr(package.datasets, class_name, fake)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    FakeSet.calls = ()


def test_torchvision_set_is_downloaded_once_and_its_test_split_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torchvision(monkeypatch, "CIFAR10", FakeSet)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = datasets.load("torchvision:cifar10")
    assert FakeSet.calls == (
        {"download": False, "train": True},
        {"download": True, "train": True},
        {"download": False, "train": False},
    )
    assert len(data.train) == 19 and len(data.held_out) == 18
    assert not {p.hash for p in data.train} & {p.hash for p in data.held_out}
    assert dict(data.skipped) == {
        "cifar10/train/000019": "broken file",
        "cifar10/held_out/000000": "same image as one in train",
        "cifar10/held_out/000019": "broken file",
    }


def test_torchvision_limit_is_spread_over_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torchvision(monkeypatch, "STL10", FakeSet)
    data = load_torchvision("stl10", keep_side=4, limit=4, cache=tmp_path / "new")
    assert [p.name[-2:] for p in data.train] == ["00", "05", "10", "15"]
    assert all(p.pixels.shape == (3, 4, 4) for p in data.train)


@pytest.mark.parametrize("name", SETS)
def test_no_network_is_one_line_that_names_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def offline(root: str, *, download: bool, **options: Any) -> NoReturn:
        raise OSError("<urlopen error\n no route>") if download else RuntimeError("not found")

    fake_torchvision(monkeypatch, SETS[name].class_name, offline)
    with pytest.raises(InputError, match=f"torchvision:{name}") as error:
        load_torchvision(name, keep_side=8, limit=2, cache=tmp_path)
    assert "no route" in one_line(error)


def test_missing_or_broken_torchvision_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # import raises ImportError
    with pytest.raises(InputError, match="torchvision cannot be used") as error:
        datasets.load("torchvision:cifar10")
    one_line(error)
    # Beside a torch it was not built for, importing it raises this.
    broken = tmp_path / "torchvision.py"
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    with pytest.raises(InputError, match="nms does not exist") as error:
        datasets.load("torchvision:cifar10")
    one_line(error)


@pytest.mark.slow
def test_table_fits_the_installed_torchvision(tmp_path: Path) -> None:
    try:
        from torchvision import datasets as torchvision_datasets
    except (ImportError, RuntimeError):
        pytest.skip("torchvision is missing or does not fit this torch")
    for row in SETS.values():
        for part in (row.train, row.held_out):
            # Arguments are checked before files are looked for.
            with pytest.raises(RuntimeError, match="not found"):
                getattr(torchvision_datasets, row.class_name)(
                    str(tmp_path), download=False, **row.options, **part
                )
