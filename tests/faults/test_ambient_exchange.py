"""Files for other programs, and their networks, do not depend on what else the process has set."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_ambient_images import SIREN, SURROUNDINGS
from torch import nn

from hyperinit.exchange.in_place import init_
from hyperinit.exchange.read import read_siren
from hyperinit.exchange.write import write_siren
from hyperinit.siren.network import Siren

FORMATS = {
    "siren-pytorch": "a.pt",
    "coin": "b.pt",
    "npz": "c.npz",
    "jax": "d.npz",
    "glsl": "e.glsl",
    "fp16": "f.safetensors",
    "int8": "g.safetensors",
    "hyperinit": "h.safetensors",
}
READ = ("siren-pytorch", "npz", "jax")


class Layered(nn.Module):
    """A SIREN of another program."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (2, 16, 16, 3)
        self.net = nn.Sequential(
            *(nn.Linear(a, b, dtype=torch.float32) for a, b in pairwise(sizes))
        )


def results(directory: Path) -> dict[str, object]:
    directory.mkdir()
    found: dict[str, object] = {}
    for to, name in FORMATS.items():
        write_siren(directory / name, SIREN, to, size=(20, 30))
        if name.endswith("glsl"):
            found[to] = (directory / name).read_bytes()
    for to in READ:
        found[f"{to} again"] = dict(read_siren(directory / FORMATS[to], size=(20, 30)))
    net = init_(Layered(), init="33", size=(20, 30), first_omega=30, hidden_omega=30)
    found["in place"] = {k: v.detach().clone() for k, v in net.state_dict().items()}
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return results(tmp_path_factory.mktemp("plain") / "out")


@pytest.mark.slow
@pytest.mark.parametrize("surroundings", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_files_and_networks_are_the_same_in_all_surroundings(tmp_path, plain, surroundings):
    with surroundings():
        found = results(tmp_path / "out")
    for what, expected in plain.items():
        if isinstance(expected, bytes):
            assert found[what] == expected, what
            continue
        for name, value in expected.items():
            assert found[what][name].dtype == torch.float32, (what, name)
            torch.testing.assert_close(found[what][name], value, rtol=0, atol=1e-6)


def test_live_parameters_are_written(tmp_path):
    live = Siren(SIREN).params
    for to, name in FORMATS.items():
        write_siren(tmp_path / name, live, to, size=(20, 30))
        assert (tmp_path / name).stat().st_size
