"""Files: atomic to write, checksummed to read."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from conftest import assert_same

from hyperinit.base import files as store
from hyperinit.base.errors import InputError
from hyperinit.base.files import exclusive
from hyperinit.exchange.quantized import save_int8
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.siren.network import Params
from hyperinit.siren.store import PARAMS_KIND, file_kind, load_params, load_tensors, save_params


@pytest.fixture
def params() -> Params:
    spec = named_init("33")
    return sample_params(spec, spec.siren_config(8, 2), generator=torch.Generator().manual_seed(0))


def test_params_come_back_with_their_config_and_facts(tmp_path, params):
    path = tmp_path / "siren.safetensors"
    save_params(path, params, mse=0.5, source="../ünï\n<b>")
    loaded, facts = load_params(path)
    assert_same(loaded, params)
    assert facts == {"mse": 0.5, "source": "../ünï\n<b>"}
    assert file_kind(path) == PARAMS_KIND


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"images": "cat.png"}, "images must be a list of names and sizes"),
        ({"mse": "low"}, "mse must be a number"),
        ({"train_hashes": [1]}, "train_hashes must be a list of texts"),
        ({"signal": {"sides": [3]}}, "signal must be a name, sides and a rate"),
        ({"mse": torch.tensor(0.5)}, "facts must be what JSON holds"),
    ],
)
@pytest.mark.parametrize("save", [save_params, save_int8])
def test_facts_that_could_not_be_read_again_are_not_written(tmp_path, params, save, facts, message):
    with pytest.raises(InputError, match=f"^{tmp_path}/x.safetensors: {message}"):
        save(tmp_path / "x.safetensors", params, **facts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_numbers_that_could_not_be_read_again_are_not_written(tmp_path, params, kind):
    factor = 1e300 if kind is torch.float64 else 1  # which is finite, and not in float32
    changed = params.map(lambda value: (value.double() * factor).to(kind))
    with pytest.raises(InputError, match=r"x\.safetensors: layers\.0\.weight (is|has)"):
        save_params(tmp_path / "x.safetensors", changed)
    assert not list(tmp_path.iterdir())


def test_a_file_says_the_network_that_it_has(tmp_path, params):
    save_params(tmp_path / "x.safetensors", params, siren={"width": 3})
    assert load_params(tmp_path / "x.safetensors")[0].config == params.config


def test_stacked_params_keep_their_batch(tmp_path, params):
    stacked = params.map(lambda value: torch.stack((value, 2 * value)))
    save_params(tmp_path / "two.safetensors", stacked)
    loaded, _ = load_params(tmp_path / "two.safetensors")
    assert loaded.batch_shape == (2,)
    assert_same(loaded.unbatch()[0], params)


def test_every_single_flipped_byte_is_noticed(tmp_path, params):
    path = tmp_path / "siren.safetensors"
    save_params(path, params)
    content = path.read_bytes()
    for position in range(0, len(content), 13):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"siren\.safetensors"):
            load_params(path)


@pytest.mark.parametrize("content", [b"", b"not a tensor", b"\xff" * 100])
def test_junk_is_refused_by_name(tmp_path, content):
    path = tmp_path / "junk.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"junk\.safetensors"):
        load_params(path)


def test_truncated_files_are_refused(tmp_path, params):
    path = tmp_path / "siren.safetensors"
    save_params(path, params)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"siren\.safetensors"):
        load_params(path)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError):
        load_params(path)
    assert not (tmp_path / "owned").exists()


def test_another_kind_of_file_is_named(tmp_path, params):
    path = tmp_path / "siren.safetensors"
    save_params(path, params)
    with pytest.raises(InputError, match="hyperinit-params-1, not something-else"):
        load_tensors(path, "something-else")


def test_missing_files_and_directories_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_params(tmp_path / "nope.safetensors")
    with pytest.raises(InputError, match="directory"):
        load_params(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, params, monkeypatch):
    path = tmp_path / "siren.safetensors"
    save_params(path, params)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save_params(path, params.map(lambda value: value + 1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["siren.safetensors"]


def test_a_missing_directory_is_one_clear_error(tmp_path, params):
    with pytest.raises(InputError, match="cannot write"):
        save_params(tmp_path / "no" / "siren.safetensors", params)


def test_only_one_process_may_hold_a_lock(tmp_path):
    lock = tmp_path / ".lock"
    with exclusive(lock), pytest.raises(InputError, match="another process"), exclusive(lock):
        pass
    with exclusive(lock):  # free again
        pass
