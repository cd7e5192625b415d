"""A run directory or a checkpoint file -> the hypernetwork in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.hypernet.network import HyperConfig, HyperNetwork
from hyperinit.siren.network import Params, SirenConfig
from hyperinit.siren.store import CHECKPOINT_NAME, load_module, load_tensors

CHECKPOINT_KIND = "hyperinit-hypernetwork-1"


def load_hypernetwork(path: str | Path) -> tuple[HyperNetwork, dict[str, Any]]:
    """Loads a trained hypernetwork and the facts about it.

    Args:
        path: A run directory, or a checkpoint file.

    Raises:
        InputError: no checkpoint there, or a damaged one, or one of another program or version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CHECKPOINT_NAME
    tensors, info = load_tensors(path, CHECKPOINT_KIND)
    try:
        fields = dict(info["hypernetwork"])
        config = HyperConfig(siren=SirenConfig(**fields.pop("siren")), **fields)
        base = {
            name.removeprefix("hyper/base."): value
            for name, value in tensors.items()
            if name.startswith("hyper/base.")
        }
        hyper = HyperNetwork(config, Params(config.siren, base))
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a hypernetwork of this version ({error})") from error
    load_module(hyper, tensors, "hyper", path)
    return hyper.eval(), info


def load(path: str | Path) -> HyperNetwork:
    """The hypernetwork of a run directory or a checkpoint file; errors as `load_hypernetwork`."""
    return load_hypernetwork(path)[0]
