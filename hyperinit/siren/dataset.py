"""A directory of fitted SIRENs -> a torch Dataset of their parameters as vectors, and back."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.siren.network import Params
from hyperinit.siren.store import PARAMS_KIND, load_siren, read_info
from hyperinit.siren.vectors import from_vector, to_vector


class ParamDataset(Dataset[Tensor]):
    """The SIRENs that `hyperinit fit DIR -o OUT_DIR` made, sorted by file name.

    `dataset[i]` is the parameter vector (P,) of one image. Files are read, and their checksums
    verified, on access.

    Attributes:
        config: The network that all of them share.
        paths: The files.

    Raises:
        InputError: the directory does not exist, holds no SIREN, holds a file that is not one, or
            SIRENs of two kinds; on access: the file was damaged or removed.
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
        """A vector (P,) -> its SIREN; (B, P) -> B stacked ones."""
        return from_vector(vector, self.config)
