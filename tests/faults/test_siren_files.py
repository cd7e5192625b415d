"""Files of SIRENs: converted or refused in one line, in bounded memory, whatever they say."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same
from hypothesis import given
from hypothesis import strategies as st
from properties import SETTINGS
from safetensors.torch import save, save_file

from hyperinit.app.cli import main
from hyperinit.base.errors import InputError
from hyperinit.inits.neighbours import neighbour_init
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.siren.dataset import ParamDataset
from hyperinit.siren.network import Params, SirenConfig, render
from hyperinit.siren.store import (
    MAX_INFO_CHARS,
    PARAMS_KIND,
    file_kind,
    load_params,
    load_siren,
    load_tensors,
    read_info,
    save_params,
    save_tensors,
    tensors_hash,
)

SPEC = named_init("33")
ONE = sample_params(SPEC, SPEC.siren_config(4, 2), generator=torch.Generator().manual_seed(0))
FACTS = {"siren": asdict(ONE.config)}


def write(path: Path, info: Any, tensors: Any = None, kind: str = PARAMS_KIND) -> Path:
    """A file with a valid checksum around any facts: JSON-able ones, or their text."""
    text = info if isinstance(info, str) else json.dumps(info)
    tensors = dict(ONE.tensors) if tensors is None else tensors
    metadata = {"kind": kind, "info": text, "sha256": tensors_hash(tensors, kind + text)}
    path.write_bytes(save(tensors, metadata))
    return path


def refusals(path: Path) -> list[str]:
    """The line with which every reader that looks at facts refuses a file; each names it."""
    lines = []
    for read in (load_params, load_siren, lambda file: ParamDataset(file.parent)):
        with pytest.raises(InputError) as caught:
            read(path)
        line = str(caught.value)
        assert path.name in line and line.isprintable() and len(line) < 1000, line
        lines.append(line)
    return lines


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_is_converted(tmp_path, dtype):
    path = write(tmp_path / "a.safetensors", FACTS, {n: v.to(dtype) for n, v in ONE.items()})
    params, _ = load_params(path)
    assert params.dtype == torch.float32
    assert_same(params, ONE.map(lambda value: value.to(dtype).float()))
    assert render(params, 4, 4).shape == (3, 4, 4)


def test_mixed_floating_point_is_converted(tmp_path):
    mixed = {n: v.half() if "bias" in n else v.double() for n, v in ONE.items()}
    params, _ = load_params(write(tmp_path / "a.safetensors", FACTS, mixed))
    assert {value.dtype for value in params.values()} == {torch.float32}


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.int64, torch.uint16, torch.bool, torch.complex64, torch.float8_e4m3fn],
)
def test_other_numbers_are_refused(tmp_path, dtype):
    tensors = {name: value.to(dtype) for name, value in ONE.items()}
    path = write(tmp_path / "a.safetensors", FACTS, tensors)
    for read in (load_params, load_siren):
        with pytest.raises(InputError, match=r"a\.safetensors.*expected floating-point"):
            read(path)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e300])
def test_parameters_that_are_not_finite_are_refused(tmp_path, wrong):
    tensors = {name: value.double() for name, value in ONE.items()}
    tensors["layers.1.bias"][2] = wrong  # 1e300 is infinite in float32
    path = write(tmp_path / "a.safetensors", FACTS, tensors)
    with pytest.raises(InputError, match=r"layers\.1\.bias has values that are not finite"):
        load_params(path)


HOSTILE_SIRENS = [
    {"depth": 10**9},
    {"depth": 10**30},
    {"width": 10**9},
    {"width": -1},
    {"width": True},
    {"width": "4"},
    {"width": 4.0},
    {"width": None},
    {"width": [4]},
    {"depth": 999},
    {"omega_0": "30"},
    {"omega_0": float("nan")},
    {"omega_0": float("inf")},
    {"omega_0": -30},
    {"omega_0": True},
    {"bias": "no"},
    {"bias": 0},
    {"unit_std_coords": 1},
    {"unknown": 1},
]


@pytest.mark.parametrize("change", HOSTILE_SIRENS, ids=str)
def test_a_valid_checksum_around_a_hostile_network(tmp_path, change):
    refusals(write(tmp_path / "a.safetensors", {"siren": {**FACTS["siren"], **change}}))


HOSTILE_FACTS = {
    "no siren": {},
    "siren is a list": {"siren": [1, 2]},
    "siren is a number": {"siren": 7},
    "siren is null": {"siren": None},
    "facts are a list": [1],
    "facts are a number": 3,
    "facts are null": None,
    "not JSON": "{",
    "empty": "",
    "deep list": "[" * 1_000_000,
    "deep object": '{"siren":' * 100_000,
    "huge number": '{"siren": {"width": ' + "9" * 5000 + "}}",
    "duplicate key": '{"siren": {"width": 4, "width": 4, "depth": 2, "omega_0": 30.0}}',
    "duplicate siren": json.dumps(FACTS)[:-1] + ', "siren": 1}',
    "too long": json.dumps({**FACTS, "x": "y" * MAX_INFO_CHARS}),
    "a billion images": {**FACTS, "images": 10**9},
    "images of texts": {**FACTS, "images": ["a.png"]},
    "image of size null": {**FACTS, "images": [{"height": None, "width": 4}]},
    "image of size 0": {**FACTS, "images": [{"height": 0, "width": 4}]},
    "image with a list for a hash": {**FACTS, "images": [{"sha256": []}]},
    "train_hashes of numbers": {**FACTS, "train_hashes": [1, 2]},
    "train_hashes is a text": {**FACTS, "train_hashes": "abc"},
    "mse is a text": {**FACTS, "mse": "0.1"},
}


@pytest.mark.parametrize("info", HOSTILE_FACTS.values(), ids=HOSTILE_FACTS)
def test_a_valid_checksum_around_hostile_facts(tmp_path, info):
    refusals(write(tmp_path / "a.safetensors", info))


HOSTILE_TENSORS = {
    "none": {},
    "one missing": {n: v for n, v in ONE.items() if n != "layers.1.weight"},
    "one more": {**ONE, "layers.9.weight": torch.zeros(4, 4)},
    "one renamed": {n.replace("layers.0.bias", "layers.zero.bias"): v for n, v in ONE.items()},
    "transposed": {n: v.T.contiguous() if v.ndim == 2 else v for n, v in ONE.items()},
    "scalars": {n: torch.tensor(1.0) for n in ONE},
    "stack of none": {n: v.new_zeros(0, *v.shape) for n, v in ONE.items()},
    "stack of stacks": {n: v.expand(2, 2, *v.shape).contiguous() for n, v in ONE.items()},
    "two sizes of stack": {n: v.repeat(4 - v.ndim, *[1] * v.ndim) for n, v in ONE.items()},
}  # fmt: skip


@pytest.mark.parametrize("tensors", HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS)
def test_a_valid_checksum_around_tensors_that_do_not_fit(tmp_path, tensors):
    refusals(write(tmp_path / "a.safetensors", FACTS, tensors))


@pytest.mark.slow
def test_facts_are_checked_before_memory_is_taken(tmp_path):
    # In 2 GB of address space beyond what importing takes; a depth of 1e9 alone is 100 GB of names.
    changes = [{"siren": {**FACTS["siren"], **change}} for change in HOSTILE_SIRENS]
    changes += ["[" * 1_000_000, {**FACTS, "images": 10**9}]
    paths = [str(write(tmp_path / f"{i}.safetensors", info)) for i, info in enumerate(changes)]
    lines = f"""
import resource, time
from hyperinit import InputError
from hyperinit.siren.store import load_params
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, used + 2 * 2**30))
start = time.monotonic()
for path in {paths!r}:
    try:
        load_params(path)
    except InputError:
        continue
    raise SystemExit(path)
raise SystemExit(0 if time.monotonic() - start < 10 else "too slow")
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_of_many_is_taken_without_making_all(tmp_path):
    count = 20_000  # so many Params would take seconds
    stacked = ONE.map(lambda value: value.expand(count, *value.shape).clone())
    stacked["layers.0.bias"][777] += 1
    path = write(tmp_path / "a.safetensors", FACTS, dict(stacked))
    one, _ = load_siren(path, 777)
    assert_same(one, stacked.map(lambda value: value[777]))
    assert one["layers.0.weight"].untyped_storage().nbytes() == 32  # not a view of all
    for index, said in (
        (None, "holds 20000 SIRENs"),
        (count, "0 to 19999"),
        (-1, "there is no -1"),
    ):
        with pytest.raises(InputError, match=said):
            load_siren(path, index)


THREE = [{"name": f"{n}.png", "height": 4 + n, "width": 8 + n} for n in range(3)]


def test_one_of_a_stack_has_its_own_facts(tmp_path):
    facts = {**FACTS, "images": THREE, "psnr": [1.0, 2.0, 3.0], "mse": 0.5, "init": "33"}
    stacked = dict(ONE.map(lambda value: torch.stack([value] * 3)))
    path = write(tmp_path / "a.safetensors", facts, stacked)
    _, info = load_siren(path, 1)
    assert info == {"images": THREE[1:2], "psnr": 2.0, "mse": 0.5, "init": "33"}
    facts["images"] = THREE[:2]  # of which of the three?
    assert "images" not in load_siren(write(path, facts, stacked), 1)[1]


@pytest.mark.parametrize("form", ["hyperinit", "fp16", "int8"])
def test_one_of_a_stack_is_exported_with_its_size(tmp_path, capsys, form):
    path, out = tmp_path / "three.safetensors", tmp_path / "one.safetensors"
    save_params(path, ONE.map(lambda value: torch.stack([value] * 3)), images=THREE)
    export = ["export", str(path), "--to", form, "--index", "1", "-o", str(out)]
    assert main(export) == 0
    assert main(["render", str(out), "-o", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.strip().endswith("a.png: 5x9")
    with pytest.raises(SystemExit):
        main(["render", str(out), "--index", "1", "-o", str(tmp_path / "a.png")])
    assert "one.safetensors holds one SIREN, there is no 1" in capsys.readouterr().err


def test_a_file_without_a_size_is_not_drawn_without_one(tmp_path, capsys):
    save_params(tmp_path / "a.safetensors", ONE, images=[{"name": "a.png"}])
    with pytest.raises(SystemExit):
        main(["render", str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "a.png")])
    assert "does not state a size; give --size HxW" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(10**6, 10**6), (1, 50_000_001), (0, 5), (5, -1), (2**40, 2**40)])
def test_an_absurd_size_is_not_rendered(size):
    with pytest.raises(InputError, match="pixels"):
        render(ONE, *size)


# Files of other programs


def test_a_foreign_file_is_refused_with_what_is_expected(tmp_path):
    save_file({"net.0.weight": torch.zeros(8, 2)}, tmp_path / "theirs.safetensors")
    torch.save({"net.0.weight": torch.zeros(8, 2)}, tmp_path / "theirs.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    for name in ("theirs.safetensors", "theirs.pt", "old.pt"):
        for read in (load_siren, load_params, lambda path: read_info(path, PARAMS_KIND)):
            with pytest.raises(InputError) as caught:
                read(tmp_path / name)
            line = str(caught.value)
            assert name in line and "\n" not in line and "docs/siren-files.md" in line
            for convention in ("x before y", "pixel centres", "omega_0", "layers.<i>.weight"):
                assert convention in line
    assert file_kind(tmp_path / "theirs.safetensors") == ""


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_that_begins_as_a_pickle_does_is_read(tmp_path, length):
    # The first bytes are the length of the header, which may be those of a pickle by chance.
    wide = sample_params(SPEC, SPEC.siren_config(4, 1), generator=torch.Generator())
    text = json.dumps({"siren": asdict(wide.config)})
    path = write(tmp_path / "a.safetensors", text, dict(wide.tensors))
    (header,) = struct.unpack("<Q", path.read_bytes()[:8])
    text = text[:-1] + " " * (length - header) + "}"
    write(path, text, dict(wide.tensors))
    assert path.read_bytes()[:2] == struct.pack("<H", length)
    assert_same(load_params(path)[0], wide)


# Properties


def read_or_refuse(path: Path) -> None:
    """Every reader gives a result or an InputError of one line, and nothing else."""
    for read in (
        file_kind,
        load_params,
        load_siren,
        lambda file: read_info(file, PARAMS_KIND),
        lambda file: load_tensors(file, PARAMS_KIND),
        lambda file: ParamDataset(file.parent),
        lambda file: neighbour_init("n", file.parent),
    ):
        try:
            read(path)
        except InputError as error:
            assert str(error).isprintable()


@SETTINGS
@given(content=st.binary(max_size=200))
def test_random_bytes(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    read_or_refuse(path)


@SETTINGS
@given(header=st.binary(max_size=200), content=st.binary(max_size=50))
def test_random_headers(tmp_path, header, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    read_or_refuse(path)


@SETTINGS
@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=5),
    cut=st.integers(0, 300),
)
def test_valid_then_mutated_files(tmp_path, flips, cut):
    path = tmp_path / "a.safetensors"
    save_params(path, ONE, images=[{"name": "a", "height": 4, "width": 4}], mse=0.5)
    whole = path.read_bytes()
    content = bytearray(whole)
    for position, change in flips:
        content[position % len(content)] ^= change
    content = content[: len(content) - cut]
    path.write_bytes(content)
    read_or_refuse(path)
    if bytes(content) != whole:
        with pytest.raises(InputError):
            load_params(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = ("siren", "images", "mse", "psnr", "train_hashes", "x")
SIREN_FIELDS = ("width", "depth", "omega_0", "unit_std_coords", "bias")


@pytest.mark.slow
@SETTINGS
@given(
    facts=st.dictionaries(st.sampled_from(FIELDS), JSON),
    network=st.dictionaries(st.sampled_from(SIREN_FIELDS), JSON),
    nested=st.booleans(),
)
def test_any_facts_with_a_valid_checksum(tmp_path, facts, network, nested):
    if nested:
        facts = {**facts, "siren": {**FACTS["siren"], **network}}
    read_or_refuse(write(tmp_path / "a.safetensors", facts))


@SETTINGS
@given(
    width=st.integers(1, 9),
    depth=st.integers(1, 4),
    omega_0=st.floats(1e-3, 1e3),
    unit_std_coords=st.booleans(),
    bias=st.booleans(),
    stacked=st.none() | st.integers(1, 3),
    facts=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5).filter(
            lambda key: key not in (*FIELDS, "path", "params")
        ),
        st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
        max_size=4,
    ),
    seed=st.integers(0, 2**32),
)
def test_round_trip(tmp_path, stacked, facts, seed, **network):
    config = SirenConfig(**network)
    generator = torch.Generator().manual_seed(seed)
    drawn = sample_params(SPEC, config, generator=generator)
    if stacked:
        drawn = drawn.map(lambda value: torch.stack([value * k for k in range(stacked)]))
    path = tmp_path / "a.safetensors"
    save_params(path, drawn, **facts)
    loaded, info = load_params(path)
    assert_same(loaded, drawn)
    assert info == facts


def test_checkpoints_have_their_facts_checked_too(tmp_path):
    for text in ("[" * 1_000_000, "[]", '{"a": 1, "a": 2}', "{"):
        path = write(tmp_path / "checkpoint.safetensors", text, kind="some-kind-1")
        for read in (load_tensors, read_info):
            with pytest.raises(InputError, match="facts"):
                read(path, "some-kind-1")
    save_tensors(path, {"a": torch.zeros(2, dtype=torch.int64)}, "some-kind-1", {"b": 1})
    tensors, info = load_tensors(path, "some-kind-1")
    assert tensors["a"].dtype == torch.int64 and info == {"b": 1}  # an optimiser's step, say
    assert os.listdir(tmp_path) == ["checkpoint.safetensors"]


def test_params_are_the_same_for_a_mapping(tmp_path):
    save_params(tmp_path / "a.safetensors", Params(ONE.config, dict(reversed(list(ONE.items())))))
    assert_same(load_params(tmp_path / "a.safetensors")[0], ONE)
