"""Optional things: packages, each with the extra that brings it, and a W&B account."""

from __future__ import annotations

import importlib
import netrc
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from hyperinit.base.errors import InputError


@dataclass(frozen=True)
class Extra:
    """One of pyproject.toml's optional dependencies that the library itself imports.

    Attributes:
        module: The module to import.
        package: The package to install.
        what: What needs it, as the beginning of a sentence, verb included.
    """

    module: str
    package: str
    what: str

    @property
    def is_installed(self) -> bool:
        """Whether it is installed, found out without importing it.

        It looks at installed packages: another folder of that name on the path does not count.
        """
        if sys.modules.get(self.module, self) is None:
            return False
        try:
            return bool(metadata.distribution(self.package))
        except metadata.PackageNotFoundError:
            return False

    @property
    def line(self) -> str:
        """The message if it is missing, with the command that installs it."""
        extra = next((name for name, row in EXTRAS.items() if row is self), self.package)
        return f"{self.what} {self.package}: pip install 'hyperinit[{extra}]'"


EXTRAS = {
    "completion": Extra("shtab", "shtab", "hyperinit completion needs"),
    "demo": Extra("gradio", "gradio", "hyperinit demo needs"),
    "export": Extra("onnx", "onnx", "ONNX files need"),
    "heic": Extra("pillow_heif", "pillow-heif", "HEIC needs"),
    "hf": Extra("datasets", "datasets", "a Hugging Face data set needs"),
    "hub": Extra("huggingface_hub", "huggingface-hub", "the Hugging Face Hub needs"),
    "mlflow": Extra("mlflow", "mlflow", "--log mlflow needs"),
    "parquet": Extra("pyarrow", "pyarrow", "a Parquet file needs"),
    "ray": Extra("ray", "ray", "--ray needs"),
    "report": Extra("wandb_workspaces", "wandb-workspaces", "a W&B report needs"),
    "tensorboard": Extra("tensorboard", "tensorboard", "--log tensorboard needs"),
}


def need(extra: str, submodule: str = "") -> ModuleType:
    """Imports the package of an extra, or a module in it.

    Raises:
        InputError: it is missing (the message says how to install it), or it is broken.
    """
    row = EXTRAS[extra]
    name = f"{row.module}.{submodule}" if submodule else row.module
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (row.module, name):
            raise _broken(row, error) from error
        raise InputError(row.line) from error
    except (ImportError, OSError, AttributeError) as error:  # broken libraries, other versions
        raise _broken(row, error) from error
    spec = getattr(sys.modules[row.module], "__spec__", None)
    if spec is not None and spec.origin is None:  # a folder of its name on the path
        raise InputError(row.line)
    return module


def check_installed(extra: str) -> None:
    """Refuses a missing package as `need` does, without the time that importing takes."""
    if not EXTRAS[extra].is_installed:
        raise InputError(EXTRAS[extra].line)


def _broken(row: Extra, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{row.what} {row.package}, which cannot be imported ({reason})")


def has_key(base_url: str) -> bool:
    """Whether a key for this W&B server is configured (if not, W&B would ask on a terminal).

    Found out without importing W&B.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        file = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, ValueError, RuntimeError, netrc.NetrcParseError):  # no text, or no home
        return False
    return file.authenticators(urlsplit(base_url).netloc) is not None


def unsent_runs(directory: str | Path) -> list[str]:
    """The runs below a directory's `wandb/` that were written offline and not synced yet."""
    found = sorted(Path(directory).glob("wandb/offline-run-*"))
    return [str(run) for run in found if not any(run.glob("*.wandb.synced"))]
