"""A directory of fitted SIRENs -> a torch Dataset of their parameters as vectors, and back."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hyperinit.errors import InputError
from hyperinit.images import shown_path
from hyperinit.siren import Params, SirenConfig, param_shapes
from hyperinit.store import PARAMS_KIND, load_siren, read_info


def to_vector(params: Params) -> Tensor:
    """One SIREN -> (P,), B stacked ones -> (B, P): in the order of `param_shapes`."""
    batch = params.batch_shape
    return torch.cat([value.reshape(*batch, -1) for value in params.values()], dim=-1)


def from_vector(vector: Tensor, config: SirenConfig) -> Params:
    """The inverse of `to_vector`: (P,) -> one SIREN, (B, P) -> B stacked ones (views).

    Raises:
        InputError: the vector is not as long as a SIREN of this config has parameters.
    """
    shapes = param_shapes(config)
    sizes = [math.prod(shape) for shape in shapes.values()]
    if vector.ndim not in (1, 2) or vector.shape[-1] != sum(sizes):
        raise InputError(
            f"a vector for {config} must be ({sum(sizes)},) or (B, {sum(sizes)}), "
            f"not {tuple(vector.shape)}"
        )
    parts = vector.split(sizes, dim=-1)
    batch = vector.shape[:-1]
    return Params(
        config,
        {n: part.reshape(*batch, *shapes[n]) for n, part in zip(shapes, parts, strict=True)},
    )


class ParamDataset(Dataset[Tensor]):
    """The SIRENs that `hyperinit fit DIR -o OUT_DIR` made, sorted by file name.

    `dataset[i]` is the parameter vector (P,) of one image; files are read and their checksums
    verified when they are asked for.

    Attributes:
        config: The network that all of them share.
        paths: The files.

    Raises:
        InputError: no such directory, no SIREN in it, a file that is not one, or SIRENs of two
            kinds; when an item is read: the file was damaged or removed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        top = Path(directory)
        if not top.is_dir():
            raise InputError(f"{shown_path(top)}: no such directory; expected fitted SIRENs")
        self.paths = sorted(top.glob("*.safetensors"))
        if not self.paths:
            raise InputError(f"{shown_path(top)}: no fitted SIRENs (.safetensors) in it")
        self._infos = [read_info(path, PARAMS_KIND) for path in self.paths]
        first = self._infos[0].get("siren")
        for path, info in zip(self.paths, self._infos, strict=True):
            if info.get("siren") != first:
                raise InputError(f"{path}: another kind of SIREN than in {self.paths[0].name}")
        self.config = load_siren(self.paths[0])[0].config

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return to_vector(load_siren(self.paths[index])[0])

    def info(self, index: int) -> dict[str, Any]:
        """Facts about one SIREN: images (name, height, width, sha256), mse, psnr, fit, ..."""
        return copy.deepcopy(self._infos[index])

    def params(self, vector: Tensor) -> Params:
        """A vector (P,), or several (B, P) -> the SIRENs they are."""
        return from_vector(vector, self.config)


def dataset(directory: str | os.PathLike[str]) -> ParamDataset:
    """See ParamDataset."""
    return ParamDataset(directory)
