"""An init as typed -> Init: a name, a file, a run directory, or a user's function."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.machinery import ModuleSpec
from math import inf
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hyperinit.base.arguments import named_source
from hyperinit.base.errors import InputError, memory_errors, unknown_name
from hyperinit.exchange.quantized import INT8_KIND
from hyperinit.exchange.read import SUFFIXES, read_any, read_foreign
from hyperinit.hypernet.hub import HUB_PREFIX, local_checkpoint
from hyperinit.hypernet.pretrained import (
    PRETRAINED,
    hyper_for,
    load_trained,
    pretrained_path,
)
from hyperinit.hypernet.untrained import STEPPED
from hyperinit.inits.neighbours import holds_sirens, neighbour_init
from hyperinit.inits.rules import NAMED_INITS, InitSpec, factor_of
from hyperinit.inits.start import SIZED_POWER, Init, model_init, params_init, sized_init, spec_init
from hyperinit.siren.network import Params
from hyperinit.siren.store import (
    PARAMS_KIND,
    checkpoint_file,
    file_kind,
    shown_hashes,
)

# (name in tables, width, depth, number after "@" or None) -> an init that is more than a draw.
InitMaker = Callable[[str, int, int, float | None], Init]


def sized_maker(spec: InitSpec) -> InitMaker:
    """`sized_init` of a spec, in the form of an `InitMaker`."""

    def make(name: str, width: int, depth: int, power: float | None) -> Init:
        return sized_init(name, spec, width, depth, SIZED_POWER if power is None else power)

    return make


def sized_makers(specs: Mapping[str, InitSpec]) -> dict[str, InitMaker]:
    """The makers of NAME-sized for inits by name that have a sized form."""
    sized = ("33", "identity", "waves", "waves-mid")
    return {f"{name}-sized": sized_maker(specs[name]) for name in sized}


# The inits that every command knows by name; benchmarks know more.
BY_NAME: dict[str, InitSpec | InitMaker] = {
    **NAMED_INITS,
    **sized_makers(NAMED_INITS),
}


_INSTALLED = ("site-packages", "dist-packages")

SIREN_KINDS = (PARAMS_KIND, INT8_KIND)

# Rivals that only a checkout has, in baselines/: rules, and trained inits.
CHECKOUT_RULES = ("weight-scaling", "winner", "vi3nr", "fresh")
CHECKOUT_TRAINED = (
    *("strainer", "snp", "maml", "fomaml", "meta-sgd", "reptile", "transinr", "ipc", "seed-hyper"),
)


def load_init(
    source: str,
    named: Mapping[str, InitSpec | InitMaker],
    width: int,
    depth: int,
    *,
    index: int | None = None,
    theirs: Mapping[str, Any] | None = None,
) -> Init:
    """Finds an init.

    Args:
        source: A name in `named`; "hyper" for the best start that comes with the package for this
            width and depth (`hyper_for`), or a name in `PRETRAINED`; a file with a SIREN that
            `read_siren` knows; the checkpoint or run directory of a hypernetwork or a learned init;
            a directory of fitted SIRENs (see `neighbour_init`); "hub:OWNER/NAME" or
            "hub:OWNER/NAME@REVISION", a checkpoint on the Hugging Face Hub; "FILE.py:FUNCTION" or
            "MODULE:FUNCTION" (see `callable_init`). "NAME=" before it sets its name in tables.
            "@NUMBER" after a name in `named` sets the one number of a rule; for an InitSpec, it is
            a factor on the first layer's weights.
        named: Hand-designed inits by name.
        width: Units of the SIREN's sine layers.
        depth: Number of its sine layers.
        index: Which SIREN of a file with several.
        theirs: Layout and conventions of another program's SIREN, as in `read_siren`.

    Raises:
        InputError: it is none of these (the message lists the known names), or cannot be loaded.
    """
    name, rest = named_source(source)
    if name:
        return replace(load_init(rest, named, width, depth, index=index, theirs=theirs), name=name)
    _check_reading(source, index, theirs or {})
    known, at, text = source.partition("@")
    if known in named:
        number = factor_of(text, source) if at else None
        entry = named[known]
        if not isinstance(entry, InitSpec):
            return entry(source, width, depth, number)
        spec = entry if number is None else entry.with_first_scaled(number)
        return spec_init(source, spec, width, depth)
    if os.path.exists(source):  # False for strings that cannot be paths
        return _file_init(Path(source), index, theirs or {})
    if source.startswith(HUB_PREFIX):
        return replace(_file_init(Path(local_checkpoint(source)), None, {}, source), name=source)
    if source == "hyper" or source in PRETRAINED:
        return pretrained_init(source, width, depth)
    if ":" in source:
        return callable_init(source, width, depth)
    raise _unknown(source, named)


def _check_reading(source: str, index: int | None, theirs: Mapping[str, Any]) -> None:
    """Refuses an index or conventions if the source is not a file to which they apply."""
    if index is None and not theirs:  # the usual case; avoids reading the file twice
        return
    path = Path(source)
    is_file = os.path.isfile(source)  # False for strings that cannot be paths
    foreign = is_file and path.suffix.lower() in SUFFIXES[1:]
    kind = file_kind(path) if is_file and path.suffix.lower() == SUFFIXES[0] else None
    if index is not None and kind not in SIREN_KINDS:
        raise InputError(f"init {source} is not a file of ours with SIRENs, so it takes no index")
    is_siren = foreign or kind in ("", *SIREN_KINDS)
    if any(value is not None for value in theirs.values()) and not is_siren:
        raise InputError(
            f"init {source} is not a SIREN of another program, so it takes no conventions"
        )


def _unknown(source: str, named: Iterable[str]) -> InputError:
    """The error for a name that is not an init of the package."""
    if source.partition("@")[0] in CHECKOUT_RULES:
        return InputError(
            f"init {source!r} is a rival in the repository's baselines/, which the package does not"
            " include: use scripts/benchmark.py in a checkout"
        )
    if source in CHECKOUT_TRAINED:
        return InputError(
            f"init {source!r} is a rival that has to be trained: run scripts/train_baseline.py"
            f" {source} in a checkout, and give its run directory"
        )
    if os.sep in source or Path(source).suffix in (*SUFFIXES, ".py"):
        return InputError(f"init {source}: no such file or directory")
    known = [*named, "hyper", *PRETRAINED, "or a file, a run directory, MODULE:FUNCTION"]
    return unknown_name("init", source, known)


def _file_init(path: Path, index: int | None, theirs: Mapping[str, Any], name: str = "") -> Init:
    """The init of a file, a run or a directory of SIRENs; `name` is for a pretrained model."""
    if path.suffix == ".py":
        raise InputError(f"init {path}: which function? Give {path}:FUNCTION")
    if holds_sirens(path):
        return neighbour_init(path.resolve().name, path)
    foreign = path.is_file() and path.suffix.lower() in SUFFIXES[1:]
    kind = "" if foreign else file_kind(checkpoint_file(path))
    if path.is_file() and not kind:
        return _foreign_init(path, theirs)
    if path.is_file() and kind in SIREN_KINDS:
        params, info = read_any(path, index=index, **theirs)
        init, seen = params_init(path.stem, params, info.get("start")), shown_hashes(info)
    else:
        model, info = load_trained(path)
        own = path.name if path.is_dir() else path.resolve().parent.name
        init = model_init(name or own, model)
        seen = frozenset(info.get("train_hashes", ()))
    return replace(init, train_hashes=seen)


def _foreign_init(path: Path, theirs: Mapping[str, Any]) -> Init:
    """Another program's SIREN, assumed to have the same pixel grid as the image to be fitted."""
    foreign = read_foreign(path, **theirs)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = {"conventions": asdict(foreign.conventions), "sha256": sha256}

    def make(image: Tensor, seed: int) -> Params:
        height, width = image.shape[-2:]
        return foreign.params((height, width))

    return Init(path.stem, make, facts=facts)


def pretrained_init(name: str, width: int, depth: int) -> Init:
    """A hypernetwork that comes with the package; "hyper" is resolved by `hyper_for`."""
    pretrained = hyper_for(width, depth) if name == "hyper" else name
    if pretrained in STEPPED:  # a start that has learned nothing, and is the best there is
        return STEPPED[pretrained](pretrained, width, depth)
    return _file_init(pretrained_path(pretrained), None, {}, pretrained)


def callable_init(source: str, width: int = 256, depth: int = 5) -> Init:
    """A user's function (image (3, H, W) in [0, 1], seed) -> Params of one SIREN.

    If it has parameters `width` and `depth`, it gets those of the network. It may have an attribute
    `epochs`, its cost in pixel visits per pixel: a number, or a function of the image; and
    `train_hashes`, the `image_hash` of every photograph it was made from, on which it is not
    tested. Records identify it by the SHA-256 of its file, and of your own modules that it imports;
    installed packages are not included.

    Args:
        source: "FILE.py:FUNCTION", or "MODULE:FUNCTION" with a module that can be imported.
        width, depth: The SIREN's width and depth.

    Raises:
        InputError: the file, module or function does not exist, cannot be imported, or does not
            take an image and a seed; its `epochs` are not a number, negative or not finite; or its
            `train_hashes` are not texts. When it is called: the function raised an exception.
    """
    place, _, name = source.rpartition(":")
    module = _import(place)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [n for n, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown_name(f"function in {place}", name, functions)
    content = Path(module.__file__).read_bytes() if module.__file__ else b""
    facts: dict[str, Any] = {"function": name, "sha256": hashlib.sha256(content).hexdigest()}
    if imports := _own_imports(module):
        facts["imports"] = imports
    made_from = getattr(function, "train_hashes", ())
    known = isinstance(made_from, (list, tuple, set, frozenset))
    if not known or not all(isinstance(one, str) for one in made_from):
        raise InputError(f"train_hashes of {source} must be a list of texts, see image_hash")
    make = _named(_told(function, {"width": width, "depth": depth}, source), source, module)
    epochs = _named(_epochs_of(function, source), source, module)
    return Init(name, make, epochs, facts, frozenset(made_from))


def _named(function: Callable[..., Any], source: str, module: ModuleType) -> Callable[..., Any]:
    """A function of the user's own whose exceptions become one line that names it and its line."""

    def call(*arguments: Any) -> Any:
        try:
            with memory_errors():
                return function(*arguments)
        except InputError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == module.__file__]
            where = f", line {lines[-1]}" if lines else ""
            raise InputError(f"{source}{where}, raises {_reason(error)}") from error

    return call


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _told(function: Any, sizes: Mapping[str, int], source: str) -> Any:
    """The function, called with those of the sizes that it has parameters for."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return function
    told = {name: size for name, size in sizes.items() if name in signature.parameters}
    try:
        signature.bind(None, None, **told)
    except TypeError as error:
        raise InputError(
            f"{source} must be a function of (image, seed), optionally with width and depth, not"
            f" of {signature} ({error})"
        ) from error
    return functools.partial(function, **told)


def _import(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if not Path(place).is_file():
            raise InputError(f"{place}: no such file")
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None and spec.loader is not None  # always true for a .py file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything on import
        raise InputError(f"cannot import {place!r} for an init: {_reason(error)}") from error


def _own_imports(module: ModuleType) -> dict[str, str]:
    """Name -> SHA-256 of the modules that a user's module imports, directly or indirectly.

    Imports are found anywhere in the text, because a function may import when it is called.
    Installed packages are left out: they are not edited between two runs.
    """
    found: dict[str, str] = {}
    waiting = [(module.__file__, module.__package__ or "")]
    while waiting:
        path, package = waiting.pop()
        for name in _imported_names(path, package):
            spec = None if name in found else _own_spec(name)
            if spec is None or spec.origin == module.__file__:
                continue
            found[name] = hashlib.sha256(Path(str(spec.origin)).read_bytes()).hexdigest()
            waiting.append((spec.origin, spec.parent or ""))
    return dict(sorted(found.items()))


def _imported_names(path: str | None, package: str) -> Iterator[str]:
    """Full names of everything a Python file imports, including parent packages and members."""
    if path is None or Path(path).suffix != ".py":
        return
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):  # from a module that only a call would import
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: max(len(package.split(".")) - node.level + 1, 0)]
            parts = [*(above if node.level else ()), *([node.module] if node.module else ())]
            names = [".".join([*parts, alias.name]) for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _own_spec(name: str) -> ModuleSpec | None:
    """The spec of a module that is a file and not installed; None for any other name."""
    top = name.partition(".")[0]
    if top in (*sys.stdlib_module_names, "hyperinit"):
        return None
    for known in dict.fromkeys((top, name)):  # installed packages are not searched
        try:
            spec = importlib.util.find_spec(known)
        except (Exception, SystemExit):  # finding it imports its parent packages
            return None
        if spec is None or any(part in _INSTALLED for part in Path(str(spec.origin)).parts):
            return None
    is_file = spec is not None and spec.has_location and Path(str(spec.origin)).is_file()
    return spec if is_file else None


def _epochs_of(function: Any, source: str) -> Callable[[Tensor], float]:
    """The cost of a user's function; refused in one line if it is not a usable number.

    A negative cost would buy free steps in a benchmark, and "3" is a text.
    """
    epochs = getattr(function, "epochs", 0.0)

    def checked(image: Tensor) -> float:
        value: Any = epochs(image) if callable(epochs) else epochs
        number = isinstance(value, (int, float, Real)) and not isinstance(value, bool)
        if not number or not 0 <= value < inf:
            raise InputError(f"epochs of {source} must be a number >= 0, not {value!r}")
        return float(value)

    if not callable(epochs):
        checked(torch.empty(0))
    return checked
