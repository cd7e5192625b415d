"""A trained module + an image -> the start of a fit."""

from __future__ import annotations

from torch import Tensor

from hyperinit.inits.start import Init, InitModel, Start
from hyperinit.siren.network import Params


def start_of(model: InitModel, image: Tensor, seed: int) -> Start:
    """What a trained module generates for an image, what that cost, and the rate that suits it.

    Args:
        model: A hypernetwork or a learned init.
        image: (3, H, W) in [0, 1], on the device of the model.
        seed: See the model's `generate`.
    """
    name, rate = type(model).__name__, model.config.lr_factor

    def make(image: Tensor, seed: int) -> Params:
        return model.generate(image, seed=seed)

    return Init(name, make, model.generate_epochs, lr_factor=rate).start(image, seed)
