"""What is optional: packages, each with the extra that brings it, and an account at W&B."""

from __future__ import annotations

import importlib
import importlib.util
import netrc
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from hyperinit.base.errors import InputError


@dataclass(frozen=True)
class Extra:
    """One row of pyproject.toml's optional dependencies that the library itself imports.

    Attributes:
        module: What is imported.
        package: What is installed.
        what: What needs it, as the beginning of a sentence, verb included.
    """

    module: str
    package: str
    what: str

    @property
    def is_installed(self) -> bool:
        """Whether it is there, found out without importing it."""
        if self.module in sys.modules:
            return sys.modules[self.module] is not None
        try:
            return importlib.util.find_spec(self.module) is not None
        except (ImportError, ValueError):
            return False


EXTRAS = {
    "completion": Extra("shtab", "shtab", "hyperinit completion needs"),
    "demo": Extra("gradio", "gradio", "hyperinit demo needs"),
    "export": Extra("onnx", "onnx", "ONNX files need"),
    "hub": Extra("huggingface_hub", "huggingface-hub", "the Hugging Face Hub needs"),
    "report": Extra("wandb_workspaces", "wandb-workspaces", "a W&B report needs"),
}


def need(extra: str) -> ModuleType:
    """Imports the package of an extra.

    Raises:
        InputError: it is missing, which the line says how to mend, or it is broken.
    """
    row = EXTRAS[extra]
    try:
        return importlib.import_module(row.module)
    except ModuleNotFoundError as error:
        if error.name != row.module:
            raise _broken(row, error) from error
        raise InputError(f"{row.what} {row.package}: pip install 'hyperinit[{extra}]'") from error
    except ImportError as error:
        raise _broken(row, error) from error


def _broken(row: Extra, error: ImportError) -> InputError:
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
    except (OSError, netrc.NetrcParseError):
        return False
    return file.authenticators(urlsplit(base_url).netloc) is not None


def unsent_runs(directory: str | Path) -> list[str]:
    """The runs below a directory's `wandb/` that were written offline and not synced since."""
    found = sorted(Path(directory).glob("wandb/offline-run-*"))
    return [str(run) for run in found if not any(run.glob("*.wandb.synced"))]
