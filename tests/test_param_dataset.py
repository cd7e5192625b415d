"""A directory of fitted SIRENs as vectors: nothing is lost on the way there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import assert_same, smooth_image

import hyperinit
from hyperinit.base.errors import InputError
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.inits.start import spec_init
from hyperinit.sets.directory import fit_directory
from hyperinit.siren.network import Params
from hyperinit.siren.store import load_params, save_params, save_tensors
from hyperinit.siren.vectors import from_vector, stack_params, to_vector


def siren(seed: int = 0, width: int = 4) -> Params:
    spec = named_init("33")
    generator = torch.Generator().manual_seed(seed)
    return sample_params(spec, spec.siren_config(width, 2), generator=generator)


def test_a_vector_is_all_parameters_and_nothing_else() -> None:
    params = siren()
    vector = to_vector(params)
    assert vector.shape == (sum(value.numel() for value in params.values()),)
    assert_same(from_vector(vector, params.config), params)
    stacked = stack_params([siren(0), siren(1)])
    assert torch.equal(to_vector(stacked)[1], to_vector(siren(1)))
    assert_same(from_vector(to_vector(stacked), stacked.config), stacked)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (), (1, 1, 55)])
def test_a_vector_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="a vector for"):
        from_vector(torch.zeros(shape), siren().config)


def test_a_directory_of_fits_is_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        hyperinit.save_image(smooth_image(8, seed), tmp_path / "photos" / f"{seed}.png")
    init = spec_init("33", named_init("33"), 4, 2)
    fit_directory(tmp_path / "photos", tmp_path / "out", init, budget_epochs=1)
    data = hyperinit.ParamDataset(tmp_path / "out")
    assert len(data) == 3
    assert {data.info(i)["images"][0]["name"] for i in range(3)} == {"0.png", "1.png", "2.png"}
    for i, path in enumerate(data.paths):
        assert_same(data.params(data[i]), load_params(path)[0])
    (batch,) = torch.utils.data.DataLoader(data, batch_size=3)
    assert batch.shape == (3, len(data[0]))
    assert data.params(batch).batch_shape == (3,)
    with pytest.raises(IndexError):  # so that iterating ends
        data[3]


def test_directories_that_are_no_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        hyperinit.ParamDataset(tmp_path / "missing")
    with pytest.raises(InputError, match="no fitted SIRENs"):
        hyperinit.ParamDataset(tmp_path)
    save_params(tmp_path / "a.safetensors", siren())
    save_params(tmp_path / "b.safetensors", siren(width=5))
    with pytest.raises(InputError, match=r"b\.safetensors: another kind of SIREN"):
        hyperinit.ParamDataset(tmp_path)
    save_tensors(tmp_path / "b.safetensors", {}, "something else", {})
    with pytest.raises(InputError, match="is something else"):
        hyperinit.ParamDataset(tmp_path)


def test_a_file_that_was_damaged_since_is_found_when_it_is_read(tmp_path: Path) -> None:
    for seed in range(2):
        save_params(tmp_path / f"{seed}.safetensors", siren(seed))
    content = bytearray((tmp_path / "1.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "1.safetensors").write_bytes(content)
    data = hyperinit.ParamDataset(tmp_path)
    assert torch.equal(data[0], to_vector(siren(0)))
    with pytest.raises(InputError, match="checksum"):
        data[1]
