"""Every reader of a file or a setting: random bytes, valid files with changes, round trips."""

from __future__ import annotations

import copy
import io
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import (
    CUTS,
    FLIPS,
    HEAVY,
    JSON,
    SETTINGS,
    SPLICES,
    bounded,
    mutated,
    put,
    read_or_refuse,
)
from safetensors.torch import save as save_safetensors

from hyperinit import ParamDataset, read_siren, write_siren
from hyperinit.base.arguments import theirs_of
from hyperinit.base.outputs import file_kind_of
from hyperinit.base.settings import from_dict, read_config_file, to_dict, to_toml
from hyperinit.exchange.layouts import LAYOUTS
from hyperinit.exchange.quantized import save_int8
from hyperinit.exchange.read import read_any
from hyperinit.fitting.config import FitConfig, fit_options
from hyperinit.hypernet.checkpoint import CHECKPOINT_KIND, load_hypernetwork
from hyperinit.hypernet.learned import LEARNED_KIND, load_learned
from hyperinit.hypernet.pretrained import load_trained
from hyperinit.images.decode import load_image
from hyperinit.inits.neighbours import neighbour_init
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.learn.reptile import PRESETS, REPTILE, ReptileConfig
from hyperinit.learn.rundir import CONFIG_NAME, checkpoint_to_resume
from hyperinit.learn.state import load_state, new_state, save_state
from hyperinit.learn.task import HYPERNETWORK, TrainConfig
from hyperinit.learn.tracking import LOG_NAME, open_tracker, read_log
from hyperinit.record.protocol import Protocol
from hyperinit.record.records import read_records
from hyperinit.siren.network import Params, SirenConfig, predict
from hyperinit.siren.store import (
    CHECKPOINT_NAME,
    file_kind,
    load_params,
    load_tensors,
    save_params,
    save_tensors,
)

TINY = TrainConfig(
    **{"size": 16, "width": 8, "depth": 2, "encoder_size": 8, "channels": 2, "code_size": 4},
    **{"rank": 1, "inner_steps": 1, "inner_pixels": 16, "query_pixels": 16},
)
TASKS = {"hyper": HYPERNETWORK, "learned": REPTILE}
KINDS = {"hyper": CHECKPOINT_KIND, "learned": LEARNED_KIND}
SPEC = named_init("33")


def siren(width: int = 4, depth: int = 2, seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return sample_params(SPEC, SPEC.siren_config(width, depth), generator=generator)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, bytes]:
    """The content of a good checkpoint of each kind, with its optimiser's numbers."""
    folder = tmp_path_factory.mktemp("good")
    configs: dict[str, Any] = {"hyper": TINY, "learned": ReptileConfig(**PRESETS["tiny"])}
    for name, config in configs.items():
        state = new_state(TASKS[name], config)
        sum(value.sum() for value in state.model.parameters()).backward()
        state.optimizer.step()
        save_state(folder / name, state, config, train_hashes=["a"])
    return {name: (folder / name).read_bytes() for name in configs}


def as_checkpoint(path: Path) -> None:
    """All that reads a checkpoint or a run directory."""
    for read in (load_hypernetwork, load_learned, load_trained, file_kind, file_kind_of):
        read_or_refuse(read, path)
    for task in TASKS.values():
        read_or_refuse(lambda file, task=task: load_state(file, task), path)


@HEAVY
@given(
    name=st.sampled_from(sorted(TASKS)),
    flips=FLIPS,
    cut=CUTS,
    splice=SPLICES,
)
def test_mutated_checkpoints(tmp_path, checkpoints, name, flips, cut, splice):
    whole = checkpoints[name]
    content = mutated(whole, flips, cut, splice)
    path = put(tmp_path / CHECKPOINT_NAME, content)
    as_checkpoint(path)
    as_checkpoint(tmp_path)
    loaded = read_or_refuse(lambda file: load_state(file, TASKS[name]), path)
    # A checksum over all that is used: a file that was changed is another one, or none.
    assert loaded is None or content == whole


@pytest.mark.slow
@HEAVY
@given(
    name=st.sampled_from(sorted(TASKS)),
    place=st.lists(st.integers(0, 100), min_size=1, max_size=3),
    value=JSON,
    drop=st.booleans(),
)
def test_any_facts_of_a_checkpoint_with_a_valid_checksum(
    tmp_path, checkpoints, name, place, value, drop
):
    path = put(tmp_path / "good", checkpoints[name])
    tensors, facts = load_tensors(path, KINDS[name])
    inner: Any = copy.deepcopy(facts)
    changed, last = inner, ""
    for step in place:  # down to a key, as far as there are keys
        last = sorted(inner)[step % len(inner)]
        if not isinstance(inner[last], dict) or not inner[last]:
            break
        inner = inner[last]
    else:
        last = sorted(inner)[0]
    if drop:
        del inner[last]
    else:
        inner[last] = value
    file = tmp_path / "hostile.safetensors"
    save_tensors(file, tensors, KINDS[name], changed)
    as_checkpoint(file)


@HEAVY
@given(
    name=st.sampled_from(sorted(TASKS)),
    which=st.integers(0, 100),
    change=st.sampled_from(["drop", "rename", "nan", "half", "integer", "shape", "scalar", "none"]),
)
def test_any_tensors_of_a_checkpoint_with_a_valid_checksum(
    tmp_path, checkpoints, name, which, change
):
    path = put(tmp_path / "good", checkpoints[name])
    tensors, facts = load_tensors(path, KINDS[name])
    key = sorted(tensors)[which % len(tensors)]
    value = tensors.pop(key)
    other = {
        "rename": lambda: {key + ".x": value},
        "nan": lambda: {key: torch.full_like(value.float(), float("nan"))},
        "half": lambda: {key: value.half()},
        "integer": lambda: {key: value.to(torch.int64)},
        "shape": lambda: {key: value.reshape(-1).repeat(2)},
        "scalar": lambda: {key: torch.tensor(1.0)},
        "none": lambda: {key: value.new_zeros(0)},
        "drop": dict,
    }[change]()
    file = tmp_path / "hostile.safetensors"
    save_tensors(file, {**tensors, **other}, KINDS[name], facts)
    as_checkpoint(file)


# Run directories

LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(st.sampled_from(["kind", "step", "values", "x"]), JSON).map(
            lambda row: json.dumps(row).encode()
        ),
    ),
    max_size=5,
)


@pytest.mark.slow
@SETTINGS
@given(lines=LINES, step=st.integers(0, 2**40), end=st.booleans())
def test_any_log_of_a_run(tmp_path, lines, step, end):
    content = b"\n".join(lines) + (b"\n" if end else b"")
    path = put(tmp_path / LOG_NAME, content)
    with bounded():
        rows = read_log(path)
    kept = [row for row in rows if row["step"] <= step]
    tracker = read_or_refuse(
        lambda run: open_tracker(run, {}, "disabled", resume_step=step), tmp_path
    )
    if tracker is not None:
        tracker.log({"a": 1.0}, step)
        tracker.finish()
        assert read_log(path)[: len(kept)] == kept
        assert read_log(path)[-1]["values"] == {"a": 1.0}
    path.unlink()


@SETTINGS
@given(
    config=st.binary(max_size=80),
    log=st.binary(max_size=80),
    checkpoint=st.one_of(st.none(), st.binary(max_size=80)),
)
def test_any_run_directory(tmp_path, config, log, checkpoint):
    for name, content in ((CONFIG_NAME, config), (LOG_NAME, log), (CHECKPOINT_NAME, checkpoint)):
        if content is None:
            (tmp_path / name).unlink(missing_ok=True)
        else:
            put(tmp_path / name, content)
    found = read_or_refuse(checkpoint_to_resume, tmp_path)
    assert (found is None) == (checkpoint is None)
    if found is not None:
        as_checkpoint(found)


# Settings

CONFIGS = {"train": TrainConfig, "reptile": ReptileConfig, "protocol": Protocol, "fit": FitConfig}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@SETTINGS
@given(
    content=st.one_of(st.binary(max_size=200), TEXTS.map(str.encode)),
    suffix=st.sampled_from([".toml", ".json"]),
)
def test_random_config_files(tmp_path, content, suffix):
    path = put(tmp_path / f"a{suffix}", content)
    values = read_or_refuse(read_config_file, path)
    if values is not None:
        for cls in CONFIGS.values():
            read_or_refuse(lambda found, cls=cls: from_dict(cls, found, source="a"), values)


@SETTINGS
@given(name=st.sampled_from(sorted(CONFIGS)), flips=FLIPS, cut=CUTS, splice=SPLICES)
def test_mutated_config_files(tmp_path, name, flips, cut, splice):
    default = CONFIGS[name]()
    path = put(tmp_path / "a.toml", mutated(to_toml(default).encode(), flips, cut, splice))
    values = read_or_refuse(read_config_file, path)
    if values is not None:
        config = read_or_refuse(lambda v: from_dict(CONFIGS[name], v, source="a"), values)
        if config is not None:  # and is written and read again as what it is
            put(path, to_toml(config).encode())
            assert from_dict(CONFIGS[name], read_config_file(path), source="a") == config


@SETTINGS
@given(
    name=st.sampled_from(sorted(CONFIGS)),
    values=st.dictionaries(
        st.sampled_from(sorted({f.name for c in CONFIGS.values() for f in fields(c)})),
        JSON,
        max_size=4,
    ),
)
def test_any_values_of_settings(tmp_path, name, values):
    cls = CONFIGS[name]
    values = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
    config = read_or_refuse(lambda found: from_dict(cls, found, source="a"), values)
    if config is not None:
        path = put(tmp_path / "a.toml", to_toml(config).encode())
        assert from_dict(cls, read_config_file(path), source="a") == config
        path = put(tmp_path / "a.json", json.dumps(to_dict(config)).encode())
        assert from_dict(cls, read_config_file(path), source="a") == config


NUMBER_TEXTS = st.one_of(
    st.text(max_size=8),
    st.floats().map(repr),
    st.integers().map(str),
    st.sampled_from(["", "none", "1e400", "-0", "9" * 5000, "1_0", "0x1", "nan", "1,2", ",", "\0"]),
)


@SETTINGS
@given(name=st.sampled_from(sorted(FitConfig.__dataclass_fields__)), text=NUMBER_TEXTS)
def test_any_text_as_an_option_of_a_fit(name, text):
    read_or_refuse(lambda pair: FitConfig(**fit_options([pair])), f"{name}={text}")


@SETTINGS
@given(
    name=st.sampled_from(["layout", "first_omega", "hidden_omega", "order", "grid", "size", "x"]),
    text=NUMBER_TEXTS,
)
def test_any_text_as_a_convention_of_others(tmp_path, name, text):
    told = read_or_refuse(lambda pair: theirs_of([pair]), f"{name}={text}")
    if told is not None:
        path = put(tmp_path / "a.npz", npz_of(siren()))
        read_or_refuse(lambda file: read_siren(file, **told), path)


# SIRENs of other programs

FOREIGN = {"siren-pytorch": ".pt", "siren": ".pth", "notebook": ".pt", "coin": ".safetensors",
           "sequential": ".pt", "npz": ".npz", "jax": ".npz"}  # fmt: skip


def npz_of(params: Params) -> bytes:
    out = io.BytesIO()
    arrays = {name: value.numpy() for name, value in params.items()}
    np.savez(out, omega_0=np.float32(30), **arrays)
    return out.getvalue()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> dict[str, bytes]:
    """Layout -> a file of it."""
    folder, found = tmp_path_factory.mktemp("foreign"), {}
    for layout, suffix in FOREIGN.items():
        path = folder / f"{layout}{suffix if suffix != '.safetensors' else '.pt'}"
        write_siren(path, siren(), layout, size=(8, 8))
        if suffix == ".safetensors":
            tensors = torch.load(path, weights_only=True)
            found[layout] = save_safetensors({k: v.contiguous() for k, v in tensors.items()})
        else:
            found[layout] = path.read_bytes()
    return found


def test_the_table_of_layouts_is_covered():
    assert set(FOREIGN) == set(LAYOUTS)


@SETTINGS
@given(layout=st.sampled_from(sorted(FOREIGN)), flips=FLIPS, cut=CUTS, splice=SPLICES)
def test_mutated_files_of_others(tmp_path, foreign, layout, flips, cut, splice):
    path = tmp_path / f"a{FOREIGN[layout]}"
    put(path, mutated(foreign[layout], flips, cut, splice))
    found = read_or_refuse(lambda file: read_siren(file, size=(8, 8)), path)
    if found is not None:
        assert all(value.isfinite().all() for value in found.values())


@SETTINGS
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=100).map(lambda rest: b"PK\x03\x04" + rest),
        st.binary(max_size=100).map(lambda rest: b"\x80\x02" + rest),
        st.binary(max_size=100).map(lambda rest: b"\x93NUMPY" + rest),
    ),
    suffix=st.sampled_from([".pt", ".pth", ".npz", ".safetensors", ".bin", ""]),
)
def test_random_bytes_as_a_siren(tmp_path, content, suffix):
    path = put(tmp_path / f"a{suffix}", content)
    for read in (read_siren, lambda file: read_any(file, index=0), file_kind_of):
        read_or_refuse(read, path)


SHAPES = st.lists(st.integers(0, 9), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int8, torch.bool,
                          torch.complex64, torch.bfloat16])  # fmt: skip
KEYS = st.sampled_from(
    [key for layout in LAYOUTS.values() for pair in layout.keys(2) for key in pair]
    + ["grid", "omega_0", "net.9999.weight", "x", "layers.0.weight", "layers.1e3.weight"]
)


@SETTINGS
@given(
    tensors=st.dictionaries(KEYS, st.tuples(SHAPES, DTYPES), max_size=8),
    layout=st.sampled_from(["auto", *LAYOUTS, "?"]),
    size=st.one_of(st.none(), st.tuples(st.integers(-1, 2**40), st.integers(-1, 9))),
)
def test_any_state_dict(tmp_path, tensors, layout, size):
    made = {key: torch.zeros(shape).to(dtype) for key, (shape, dtype) in tensors.items()}
    path = tmp_path / "a.pt"
    torch.save(made, path)
    read_or_refuse(lambda file: read_siren(file, layout, size=size), path)


@SETTINGS
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    width=st.integers(1, 7),
    depth=st.integers(1, 4),
    omega_0=st.floats(0.1, 100),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    seed=st.integers(0, 2**32),
)
def test_round_trips_through_layouts_of_others(tmp_path, layout, width, depth, omega_0, size, seed):
    config = SirenConfig(width, depth, omega_0=omega_0)
    drawn = sample_params(SPEC, config, generator=torch.Generator().manual_seed(seed))
    path = tmp_path / f"a{'.npz' if FOREIGN[layout] == '.npz' else '.pt'}"
    write_siren(path, drawn, layout, size=size)
    again = read_siren(path, layout, size=size)
    coords = torch.linspace(-1, 1, 10).reshape(5, 2)
    torch.testing.assert_close(predict(again, coords), predict(drawn, coords), rtol=1e-2, atol=1e-2)


# Everything that reads a file, on every kind of file


@HEAVY
@given(
    kind=st.sampled_from(
        ["params", "int8", "stack", "hyper", "learned", "records", "json", "toml"]
    ),
    name=st.sampled_from(["a", "a.png", "a.safetensors", "a.pt", "a.npz", "a.jsonl", "a.toml"]),
    flips=FLIPS,
    cut=CUTS,
)
def test_every_reader_takes_or_refuses_every_kind(tmp_path, checkpoints, kind, name, flips, cut):
    path = tmp_path / name
    if kind in checkpoints:
        put(path, checkpoints[kind])
    elif kind == "int8":
        save_int8(path, siren())
    elif kind in ("params", "stack"):
        one = siren()
        save_params(path, one if kind == "params" else one.map(lambda v: torch.stack([v, v])))
    else:
        texts = {"records": b'{"version": 2}\n', "json": b'{"a": 1}', "toml": b"seed = 1\n"}
        put(path, texts[kind])
    put(path, mutated(path.read_bytes(), flips, cut))
    for read in (
        *(load_params, read_siren, read_any, load_image, read_records, read_config_file),
        *(load_trained, file_kind, file_kind_of, checkpoint_to_resume),
        lambda file: ParamDataset(file.parent),
        lambda file: neighbour_init("n", file.parent),
    ):
        read_or_refuse(read, path)
    for left in tmp_path.iterdir():
        os.unlink(left)
