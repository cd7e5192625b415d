"""hyperinit: a hypernetwork that outputs the initial weights of a SIREN for an image.

The names below are the public API. They are imported on first use, so that code that does not need
torch, such as `hyperinit --help` or reading records, does not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hyperinit.moved import install

if TYPE_CHECKING:
    from hyperinit.base.errors import InputError as InputError
    from hyperinit.exchange.in_place import init_ as init_
    from hyperinit.exchange.read import read_siren as read_siren
    from hyperinit.exchange.siren_net import SirenNet as SirenNet
    from hyperinit.exchange.write import write_siren as write_siren
    from hyperinit.fitting.config import FitConfig as FitConfig
    from hyperinit.fitting.descent import FitResult as FitResult
    from hyperinit.fitting.fit import fit as fit
    from hyperinit.fitting.many import fit_many as fit_many
    from hyperinit.fitting.target import TargetResult as TargetResult
    from hyperinit.fitting.target import fit_to_target as fit_to_target
    from hyperinit.hypernet.checkpoint import load as load
    from hyperinit.hypernet.hub import from_pretrained as from_pretrained
    from hyperinit.hypernet.learned import LearnedInit as LearnedInit
    from hyperinit.hypernet.network import HyperConfig as HyperConfig
    from hyperinit.hypernet.network import HyperNetwork as HyperNetwork
    from hyperinit.hypernet.pretrained import load_pretrained as load_pretrained
    from hyperinit.images.decode import load_image as load_image
    from hyperinit.images.decode import to_image as to_image
    from hyperinit.images.save import save_image as save_image
    from hyperinit.images.signals import to_signal as to_signal
    from hyperinit.inits.rules import InitSpec as InitSpec
    from hyperinit.inits.rules import named_init as named_init
    from hyperinit.inits.rules import sample_params as sample_params
    from hyperinit.inits.start import Init as Init
    from hyperinit.inits.start import Start as Start
    from hyperinit.inits.start import signal_start as signal_start
    from hyperinit.sets.directory import fit_directory as fit_directory
    from hyperinit.siren.dataset import ParamDataset as ParamDataset
    from hyperinit.siren.network import Params as Params
    from hyperinit.siren.network import Siren as Siren
    from hyperinit.siren.network import SirenConfig as SirenConfig
    from hyperinit.siren.network import apply as apply
    from hyperinit.siren.network import param_shapes as param_shapes
    from hyperinit.siren.network import render as render
    from hyperinit.siren.signals import render_signal as render_signal
    from hyperinit.siren.store import load_params as load_params
    from hyperinit.siren.store import save_params as save_params
    from hyperinit.siren.vectors import from_vector as from_vector
    from hyperinit.siren.vectors import to_vector as to_vector

# Public name -> the module it lives in.
_HOMES = {
    "InputError": "hyperinit.base.errors",
    "SirenNet": "hyperinit.exchange.siren_net",
    "init_": "hyperinit.exchange.in_place",
    "read_siren": "hyperinit.exchange.read",
    "write_siren": "hyperinit.exchange.write",
    "FitConfig": "hyperinit.fitting.config",
    "fit_directory": "hyperinit.sets.directory",
    "FitResult": "hyperinit.fitting.descent",
    "fit": "hyperinit.fitting.fit",
    "fit_many": "hyperinit.fitting.many",
    "TargetResult": "hyperinit.fitting.target",
    "fit_to_target": "hyperinit.fitting.target",
    "load": "hyperinit.hypernet.checkpoint",
    "from_pretrained": "hyperinit.hypernet.hub",
    "LearnedInit": "hyperinit.hypernet.learned",
    "HyperConfig": "hyperinit.hypernet.network",
    "HyperNetwork": "hyperinit.hypernet.network",
    "load_pretrained": "hyperinit.hypernet.pretrained",
    "load_image": "hyperinit.images.decode",
    "to_image": "hyperinit.images.decode",
    "save_image": "hyperinit.images.save",
    "to_signal": "hyperinit.images.signals",
    "InitSpec": "hyperinit.inits.rules",
    "named_init": "hyperinit.inits.rules",
    "sample_params": "hyperinit.inits.rules",
    "Init": "hyperinit.inits.start",
    "Start": "hyperinit.inits.start",
    "signal_start": "hyperinit.inits.start",
    "ParamDataset": "hyperinit.siren.dataset",
    "Params": "hyperinit.siren.network",
    "Siren": "hyperinit.siren.network",
    "SirenConfig": "hyperinit.siren.network",
    "apply": "hyperinit.siren.network",
    "param_shapes": "hyperinit.siren.network",
    "render": "hyperinit.siren.network",
    "render_signal": "hyperinit.siren.signals",
    "load_params": "hyperinit.siren.store",
    "save_params": "hyperinit.siren.store",
    "from_vector": "hyperinit.siren.vectors",
    "to_vector": "hyperinit.siren.vectors",
}

__all__ = [
    "FitConfig",
    "FitResult",
    "HyperConfig",
    "HyperNetwork",
    "Init",
    "InitSpec",
    "InputError",
    "LearnedInit",
    "ParamDataset",
    "Params",
    "Siren",
    "SirenConfig",
    "SirenNet",
    "Start",
    "TargetResult",
    "apply",
    "fit",
    "fit_directory",
    "fit_many",
    "fit_to_target",
    "from_pretrained",
    "from_vector",
    "init_",
    "load",
    "load_image",
    "load_params",
    "load_pretrained",
    "named_init",
    "param_shapes",
    "read_siren",
    "render",
    "render_signal",
    "sample_params",
    "save_image",
    "save_params",
    "signal_start",
    "to_image",
    "to_signal",
    "to_vector",
    "write_siren",
]

install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hyperinit")
    if name not in _HOMES:
        raise AttributeError(f"module 'hyperinit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
