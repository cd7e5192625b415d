"""Archives, arrays and sounds that claim what they have not: one line, and bounded memory."""

from __future__ import annotations

import pwd
import struct
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth_image
from properties import read_or_refuse

from hyperinit import InputError
from hyperinit.app.cli import main
from hyperinit.base import errors
from hyperinit.base.extras import has_key
from hyperinit.data.arrays import open_arrays
from hyperinit.exchange.read import read_any
from hyperinit.images.save import save_image
from hyperinit.images.signals import load_signal, save_samples
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.photos.load import load
from hyperinit.publish.submission import read_submission
from hyperinit.siren.network import SirenConfig
from hyperinit.siren.store import save_params

PICTURES = (np.arange(3 * 16 * 16 * 3) % 251).astype(np.uint8).reshape(3, 16, 16, 3)


def npy_of(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"


# Headers that numpy's parser takes for a program: what it raises is no ValueError.
HEADERS = {
    "too deep": b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"-" * 9000 + b"1,)}",
    "never closed": b"(" * 8000,
    "no text": b"\xff" * 100,
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_of_arrays(tmp_path, what):
    content = npy_of(HEADERS[what])
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    for read, name in ((load, "a.npy"), (load, "a.npz"), (load_signal, "a.npy")):
        assert read_or_refuse(read, str(tmp_path / name)) is None
    assert read_or_refuse(read_any, tmp_path / "a.npz") is None


def test_a_header_of_gigabytes_of_blanks_is_not_read_whole(tmp_path):
    member = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**28) + b" " * 2**24
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", member)
    assert read_or_refuse(load, str(tmp_path / "a.npz")) is None


def changed(path: Path, *changes: tuple[bytes, int, int]) -> None:
    """Sets bytes at places behind marks."""
    content = bytearray(path.read_bytes())
    for mark, at, value in changes:
        content[content.find(mark) + at] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (((b"PK\x03\x04", 6, 1), (b"PK\x01\x02", 8, 1)), "encrypted"),
        (((b"PK\x03\x04", 8, 99), (b"PK\x01\x02", 10, 99)), "not supported"),
        (((b"a.npy", 300, 1), (b"a.npy", 301, 2)), "cannot be read|no usable"),
    ],
)
def test_archives_that_cannot_be_unpacked(tmp_path, changes, reason):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).integers(0, 255, PICTURES.shape, "u1"))
    changed(path, *changes)
    for spec in (str(path), f"{path}#a"):
        with pytest.raises(InputError, match=reason):
            load(spec)
    assert read_or_refuse(read_any, path) is None


def test_an_array_that_is_cut_off_while_it_is_used(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, PICTURES)
    source = open_arrays(str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError):
        source.read(0)


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_facts_about_nothing_in_an_archive(tmp_path, kind):
    content = b"11 a=bcdef\n" if kind in b"xg" else b"name\0"
    facts = header(kind, len(content)) + content.ljust(512, b"\0")
    path = tmp_path / "a.tar"
    path.write_bytes(2000 * facts + bytes(1024))
    assert read_or_refuse(load, str(path)) is None
    with path.open("wb") as file:  # of 16 GiB, none of which is on the disk
        file.write(header(kind, 2**32))
        file.truncate(2**34)
    assert read_or_refuse(load, str(path)) is None


def test_what_is_before_the_damage_is_read(tmp_path):
    save_image(smooth_image(16), tmp_path / "p.png")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tmp_path / "p.png", "p.png")
    blocks = 1 + -(-(tmp_path / "p.png").stat().st_size // 512)
    whole = (tmp_path / "a.tar").read_bytes()[: 512 * blocks]
    (tmp_path / "a.tar").write_bytes(whole + header(b"x", 2**32))
    found = load(str(tmp_path / "a.tar"), held_out_fraction=0)
    assert [photo.name for photo in found.train] == ["a.tar/p.png"]
    assert "bytes of names and extra fields" in dict(found.skipped)["a.tar"]


@pytest.mark.parametrize("rate_hz", [0, 2**32 - 1])
def test_a_rate_that_no_file_could_have_is_refused_before_the_fit(tmp_path, capsys, rate_hz):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(128))
    changed(path, *((b"fmt ", 12 + i, byte) for i, byte in enumerate(struct.pack("<I", rate_hz))))
    with pytest.raises(SystemExit):
        main(["fit", str(path), "-o", str(tmp_path / "o.safetensors")])
    error = capsys.readouterr().err
    assert f"sampling rate of {rate_hz}" in error and error.count("\n") == 1
    assert not (tmp_path / "o.safetensors").exists()


def test_a_sound_that_becomes_too_fast_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"write \.npy"):
        save_samples(torch.zeros(2, 8), tmp_path / "o.wav", 2**31 - 1)
    assert not list(tmp_path.iterdir())


def test_a_submission_that_memory_cannot_hold(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"submission": 1}\n')
        file.truncate(2**28)
    monkeypatch.setattr(errors, "free_memory", lambda: 2**28)
    with pytest.raises(InputError, match="split it into several"):
        read_submission(path)


def nobody(number: int) -> None:
    raise KeyError(number)


def test_a_user_without_a_home(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "photos").mkdir()
    save_image(smooth_image(16), tmp_path / "photos" / "p.png")
    assert len(load(tmp_path / "photos", held_out_fraction=0).train) == 1
    assert not has_key("https://api.wandb.ai")


def test_keys_in_a_file_that_is_no_text(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_bytes(b"machine \xff\xfe login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_key("https://api.wandb.ai")


def test_a_photograph_that_cannot_be_read_is_refused_before_the_export(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    siren = sample_params(named_init("33"), SirenConfig(8, 1), generator=generator)
    save_params(tmp_path / "s.safetensors", siren)
    line = ["export", str(tmp_path / "s.safetensors"), "--to", "fp16", "--image", "none.png"]
    with pytest.raises(SystemExit):
        main([*line, "-o", str(tmp_path / "o.safetensors")])
    assert "none.png: no such file" in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()
