"""hyperinit: a hypernetwork that outputs the initial weights of a SIREN for an image."""

from hyperinit.errors import InputError
from hyperinit.fit import FitConfig, FitResult, fit
from hyperinit.hypernet import HyperConfig, HyperNetwork
from hyperinit.images import load_image, save_image, to_image
from hyperinit.init import InitSpec, named_init, sample_params
from hyperinit.many import fit_directory, fit_many
from hyperinit.param_dataset import ParamDataset, dataset, from_vector, to_vector
from hyperinit.pretrained import load_pretrained
from hyperinit.siren import Params, Siren, SirenConfig, apply, param_shapes, render
from hyperinit.store import load_params, save_params
from hyperinit.target import TargetResult, fit_to_target
from hyperinit.training import load

__version__ = "0.1.0"

__all__ = [
    "FitConfig",
    "FitResult",
    "HyperConfig",
    "HyperNetwork",
    "InitSpec",
    "InputError",
    "ParamDataset",
    "Params",
    "Siren",
    "SirenConfig",
    "TargetResult",
    "apply",
    "dataset",
    "fit",
    "fit_directory",
    "fit_many",
    "fit_to_target",
    "from_vector",
    "load",
    "load_image",
    "load_params",
    "load_pretrained",
    "named_init",
    "param_shapes",
    "render",
    "sample_params",
    "save_image",
    "save_params",
    "to_image",
    "to_vector",
]
