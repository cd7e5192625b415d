"""`fit` and `generate` take what `--data` takes: every kind of set gives the files of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import FORMS, pictures, png, write_folder, write_shards, write_tar

from hyperinit.app.cli import main
from hyperinit.images.save import save_image
from hyperinit.photos.load import open_source
from hyperinit.photos.torchvision_sets import SETS
from hyperinit.sets.results import result_name
from hyperinit.siren.store import load_params

FIT = ["--width", "8", "--depth", "1", "--budget-epochs", "1", "--fit", "engine=eager"]
GENERATE = ["--checkpoint", "linear-96"]
COMMANDS = {"fit": FIT, "generate": GENERATE}
MANY = {form: write for form, write in FORMS.items() if form != "folder"}


def run(command: str, spec: str, out: Path, *more: str) -> int:
    return main([command, spec, "-o", str(out), *COMMANDS[command], *more])


def found(out: Path) -> dict[str, dict[str, Any]]:
    """By the hash of the image: what its file says, and its parameters as "params"."""
    files = [load_params(path) for path in out.glob("*.safetensors")]
    return {info["images"][0]["sha256"]: {**info, "params": params} for params, info in files}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", MANY)
def test_every_kind_of_set_gives_what_a_folder_gives_and_is_not_done_twice(
    form: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, folder = MANY[form](tmp_path / "set"), write_folder(tmp_path / "folder")
    spec += "#photos" if form == "npz" else ""  # its labels are no images, which is said
    assert run(command, folder, tmp_path / "a") == run(command, spec, tmp_path / "b") == 0
    expected, others = found(tmp_path / "a"), found(tmp_path / "b")
    assert set(expected) == set(others) and len(others) == 6
    for key, there in expected.items():
        for name, value in there["params"].items():
            torch.testing.assert_close(others[key]["params"][name], value, rtol=1e-4, atol=1e-5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").iterdir()}
    capsys.readouterr()
    assert run(command, spec, tmp_path / "b") == 0
    assert "6 finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "b").iterdir()} == before


@pytest.mark.parametrize("command", COMMANDS)
def test_files_are_called_after_the_keys_of_samples(command: str, tmp_path: Path) -> None:
    spec = write_shards(tmp_path / "set")
    assert run(command, spec, tmp_path / "out", "--limit", "4") == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    keys = ["s-00_tar_000", "s-00_tar_001", "s-00_tar_002", "s-01_tar_003"]
    assert [name.rpartition("-")[0] for name in names] == keys
    # Wherever the shards are, and however they are named: results are found again.
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    assert run(command, f"{tmp_path}/elsewhere/*.tar", tmp_path / "out", "--limit", "4") == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_sample_that_has_changed_or_is_damaged_is_made_again_alone(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shard(*contents: bytes) -> str:
        members = [(f"{n}.png", content) for n, content in enumerate(contents)]
        return str(write_tar(tmp_path / "s.tar", members))

    images = [png(pixels) for pixels in pictures()]
    spec = shard(images[0], images[1], b"no image")
    assert run(command, spec, tmp_path / "out") == 1
    assert "s.tar/2.png: not an image" in capsys.readouterr().err
    first = tmp_path / "out" / result_name("s.tar/0.png")
    kept = first.read_bytes()
    shard(images[0], images[3], images[2])
    assert run(command, spec, tmp_path / "out") == 0
    assert "1 finished before" in capsys.readouterr().out
    assert first.read_bytes() == kept
    params = load_params(first)[0]
    first.write_bytes(kept[:100])
    assert run(command, spec, tmp_path / "out") == 0
    for name, value in load_params(first)[0].items():
        torch.testing.assert_close(value, params[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("command", COMMANDS)
def test_results_made_otherwise_are_refused(command: str, tmp_path: Path, capsys: Any) -> None:
    spec = write_shards(tmp_path / "set")
    assert run(command, spec, tmp_path / "out", "--limit", "1") == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(command, spec, tmp_path / "out", "--limit", "1", "--seed", "1")
    assert stopped.value.code == 2
    assert "use another output directory" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_sets_that_go_by_a_name(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(command, "synthetic", tmp_path / "made", "--size", "12", "--limit", "2") == 0
    assert len(found(tmp_path / "made")) == 2

    def build(root: str, download: bool, **options: Any) -> list[tuple[Image.Image, int]]:
        wanted = pictures()[:4] if options["train"] else pictures()[4:]
        return [(Image.fromarray(pixels), 0) for pixels in wanted]

    monkeypatch.setattr("hyperinit.photos.torchvision_sets._class", lambda name: build)
    assert SETS["cifar10"].train == {"train": True}
    assert run(command, "torchvision:cifar10", tmp_path / "set") == 0
    assert run(command, write_folder(tmp_path / "folder"), tmp_path / "folders") == 0
    assert set(found(tmp_path / "set")) == set(found(tmp_path / "folders"))
    assert (tmp_path / "set" / result_name("cifar10/held_out/000001")).exists()


def test_names_of_a_hugging_face_set_do_not_tell_where_it_lies(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Dataset"):
        pytest.skip("a folder of this name comes first")
    content = {"image": [png(pixels) for pixels in pictures()]}
    datasets.Dataset.from_dict(content).save_to_disk(tmp_path / "set")
    assert open_source(tmp_path / "set").names[1] == "set[000001]"


def test_a_npy_file_of_floats_is_a_signal_and_several_are_stacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    floats = np.stack(pictures()).astype(np.float32) / 255
    np.save(tmp_path / "x-0.npy", floats)
    np.save(tmp_path / "volume.npy", floats.transpose(3, 0, 1, 2))
    out = tmp_path / "out.safetensors"
    assert main(["fit", str(tmp_path / "volume.npy"), "-o", str(out), *FIT]) == 0
    assert load_params(out)[0].config.in_features == 3
    with pytest.raises(SystemExit):
        main(["fit", str(tmp_path / "x-0.npy"), "-o", str(out), *FIT])
    assert "save it as .npz, which holds a set" in capsys.readouterr().err
    assert main(["fit", f"{tmp_path}/x-*.npy", "-o", str(tmp_path / "set"), *FIT]) == 0
    assert len(found(tmp_path / "set")) == 6


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate", "SET", "-o", "x.safetensors"], "give a directory for results: -o OUT_DIR"),
        (["generate", "SET", "IMAGE", "-o", "x"], "is a set of images; give only that"),
        (["generate", "IMAGE", "-o", "x", "--limit", "2"], "--limit is for a set of images"),
        (["fit", "IMAGE", "--limit", "2"], "--limit is for a set of images"),
        (["fit", "IMAGE", "--no-learn"], "--no-learn is for a set of images"),
        (["fit", "IMAGE", "--batch-images", "2"], "--batch-images is for a set of images"),
        (["fit", "IMAGE", "--ray-gpus", "0.5"], "--ray-gpus is for a set of images"),
        (["fit", "SET"], "give a directory for results: -o OUT_DIR"),
        (["fit", "none.tar", "-o", "x"], "none.tar: no such file"),
        (["generate", "hf:a:b:c#", "-o", "x"], "hf:"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = write_shards(tmp_path / "set")
    save_image(torch.rand(3, 8, 8), "image.png")
    named = {"SET": spec, "IMAGE": "image.png"}
    with pytest.raises(SystemExit) as stopped:
        main([named.get(text, text) for text in arguments])
    assert stopped.value.code == 2
    assert line in (told := capsys.readouterr().err) and "Traceback" not in told
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.safetensors").exists()


def test_a_set_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("0.cls", b"7"), ("0.png", png(pictures()[0])), ("1.png", b"no image")]
    spec = str(write_tar(tmp_path / "s.tar", members))
    assert run("generate", spec, tmp_path / "out", "--json") == 1
    *_, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (last["images"], last["finished"], last["failed"]) == (1, 0, 1)


@pytest.mark.parametrize(("command", "done"), [("fit", " (1 of 2)"), ("generate", "")])
def test_what_has_no_result_is_told_alike(
    command: str, done: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [("0.png", png(pictures()[0])), ("1.png", b"no image")]
    spec = str(write_tar(tmp_path / "s.tar", members))
    assert run(command, spec, tmp_path / "out", "--json") == 1
    told = capsys.readouterr()
    failed = [one for one in map(json.loads, told.out.splitlines()) if one["kind"] == "failed"]
    assert [one["image"] for one in failed] == ["s.tar/1.png"]
    assert f"s.tar/1.png: {failed[0]['reason']}{done}\n" in told.err


def test_a_set_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperinit.photos import folder

    listed: list[Path] = []
    real: Callable[..., Any] = folder.image_files

    def watched(top: Path, **options: Any) -> Any:
        listed.append(top)
        return real(top, **options)

    monkeypatch.setattr(folder, "image_files", watched)
    assert run("fit", write_folder(tmp_path / "folder"), tmp_path / "out") == 0
    assert len(listed) == 1
