"""Starts and fits do not depend on what else the process has set."""

from __future__ import annotations

import pytest
import torch
from conftest import smooth_image
from test_ambient_images import SURROUNDINGS

import hyperinit
from hyperinit.hypernet.checkpoint import load_hypernetwork
from hyperinit.hypernet.pretrained import pretrained_path
from hyperinit.inits.rules import named_init, sample_params
from hyperinit.inits.start import model_init

IMAGE = smooth_image(16)


def results() -> dict[str, hyperinit.Params]:
    hyper, _ = load_hypernetwork(pretrained_path("photo-96"))
    spec = named_init("33")
    drawn = sample_params(spec, spec.siren_config(8, 2), generator=torch.Generator().manual_seed(0))
    return {
        "drawn": drawn,
        "generated": hyper.generate(IMAGE),
        "start": model_init("hyper", hyper).start(IMAGE, 0).params,
        "fitted": hyperinit.fit(drawn, IMAGE, budget_epochs=1).params,
        "fitted together": hyperinit.fit_many([drawn], [IMAGE], budget_epochs=1)[0].params,
    }


@pytest.fixture(scope="module")
def plain():
    return results()


# What the process makes tensors on; "meta" holds no numbers.
ALL = {**SURROUNDINGS, "another default device": lambda: torch.device("meta")}


@pytest.mark.parametrize("surroundings", ALL.values(), ids=ALL)
def test_starts_and_fits_are_the_same_in_all_surroundings(plain, surroundings):
    with surroundings():
        found = results()
    for what, expected in plain.items():
        for name, value in expected.items():
            assert found[what][name].dtype == torch.float32, (what, name)
            torch.testing.assert_close(found[what][name], value, rtol=0, atol=1e-5)
