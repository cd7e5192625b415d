"""A run directory or a checkpoint file -> the hypernetwork in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.hypernet.hub import Origin
from hyperinit.hypernet.network import CHECKPOINT_KIND as CHECKPOINT_KIND
from hyperinit.hypernet.network import HyperConfig, HyperNetwork
from hyperinit.hypernet.restore import base_from, config_from, restored
from hyperinit.siren.ambient import with_own_settings
from hyperinit.siren.store import checkpoint_file, load_tensors


@with_own_settings
def load_hypernetwork(path: str | Path) -> tuple[HyperNetwork, dict[str, Any]]:
    """Loads a trained hypernetwork and the facts about it.

    Args:
        path: A run directory, or a checkpoint file.

    Raises:
        InputError: there is no checkpoint, or it is damaged or of another program or version.
    """
    path = checkpoint_file(path)
    tensors, info = load_tensors(path, CHECKPOINT_KIND)
    try:
        facts = dict(info["hypernetwork"])
        base = base_from(facts.pop("siren"), tensors, "hyper/base.")
        config = config_from(HyperConfig, facts, siren=base.config)
        model = restored(lambda: HyperNetwork(config, base), tensors, "hyper", path)
        model.origin = Origin(path, info)
        return model, info
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a hypernetwork of this version ({reason})") from error


def load(path: str | Path) -> HyperNetwork:
    """The hypernetwork of a run directory or a checkpoint file; errors as `load_hypernetwork`."""
    return load_hypernetwork(path)[0]
