"""What a user types -> Init: a name, a file, a run directory, or a function of their own."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
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
from hyperinit.base.errors import InputError, unknown_name
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

# (name in tables, width, depth, what follows "@" or None) -> an init that is more than a draw.
InitMaker = Callable[[str, int, int, float | None], Init]


def sized_maker(spec: InitSpec) -> InitMaker:
    """`sized_init` of a spec, as tables of inits hold it."""

    def make(name: str, width: int, depth: int, power: float | None) -> Init:
        return sized_init(name, spec, width, depth, SIZED_POWER if power is None else power)

    return make


def sized_makers(specs: Mapping[str, InitSpec]) -> dict[str, InitMaker]:
    """Those of the inits by name that there are sized, as NAME-sized."""
    sized = ("33", "identity", "waves", "waves-mid")
    return {f"{name}-sized": sized_maker(specs[name]) for name in sized}


# The inits that go by a name alone, for every program; benchmarks know more.
BY_NAME: dict[str, InitSpec | InitMaker] = {
    **NAMED_INITS,
    **sized_makers(NAMED_INITS),
}


_INSTALLED = ("site-packages", "dist-packages")

SIREN_KINDS = (PARAMS_KIND, INT8_KIND)

# Rivals that only a checkout has, in baselines/: rules, and inits that are trained.
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
            "MODULE:FUNCTION" (see `callable_init`). "NAME=" before it is what tables call it.
            "@NUMBER" behind a name in `named` sets the one number of a rule; of an InitSpec, it is
            a factor on the first layer's weights.
        named: Hand-designed inits by name.
        width: Units of the SIREN's sine layers.
        depth: Number of its sine layers.
        index: Which SIREN of a file with several.
        theirs: Layout and conventions of another program's SIREN, as in `read_siren`.

    Raises:
        InputError: none of these, or it cannot be loaded; unknown names list the known ones.
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
    path = Path(source)
    if os.path.exists(source):  # False for what can be no path
        return _file_init(path, index, theirs or {})
    if source.startswith(HUB_PREFIX):
        return replace(_file_init(Path(local_checkpoint(source)), None, {}, source), name=source)
    if source == "hyper" or source in PRETRAINED:
        return pretrained_init(source, width, depth)
    if ":" in source:
        return callable_init(source, width, depth)
    raise _unknown(source, named)


def _check_reading(source: str, index: int | None, theirs: Mapping[str, Any]) -> None:
    """Refuses what says how to read a file of SIRENs where the source is not such a one."""
    if index is None and not theirs:  # as nearly always: the file is not looked into twice
        return
    path = Path(source)
    is_file = os.path.isfile(source)  # False for what can be no path
    foreign = is_file and path.suffix.lower() in SUFFIXES[1:]
    kind = file_kind(path) if is_file and path.suffix.lower() == SUFFIXES[0] else None
    if index is not None and kind not in SIREN_KINDS:
        raise InputError(f"init {source} is no file of ours with SIRENs: it takes no index")
    is_siren = foreign or kind in ("", *SIREN_KINDS)
    if any(value is not None for value in theirs.values()) and not is_siren:
        raise InputError(f"init {source} is no SIREN of another program: it takes no conventions")


def _unknown(source: str, named: Iterable[str]) -> InputError:
    """The error for a name that is no init of the package."""
    if source.partition("@")[0] in CHECKOUT_RULES:
        return InputError(
            f"init {source!r} is a rival of the repository's baselines/, which the package does not"
            " have: use scripts/benchmark.py in a checkout"
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
    """What a file, a run or a directory of SIRENs is as an init; a model of its own has `name`."""
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
    """Another program's SIREN, whose pixels are taken to lie as those of the image to be fitted."""
    foreign = read_foreign(path, **theirs)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = {"conventions": asdict(foreign.conventions), "sha256": sha256}

    def make(image: Tensor, seed: int) -> Params:
        height, width = image.shape[-2:]
        return foreign.params((height, width))

    return Init(path.stem, make, facts=facts)


def pretrained_init(name: str, width: int, depth: int) -> Init:
    """A hypernetwork that comes with the package; "hyper" is `hyper_for` this width and depth."""
    pretrained = hyper_for(width, depth) if name == "hyper" else name
    if pretrained in STEPPED:  # has learned nothing, and is the best there is
        return STEPPED[pretrained](pretrained, width, depth)
    return _file_init(pretrained_path(pretrained), None, {}, name)


def callable_init(source: str, width: int = 256, depth: int = 5) -> Init:
    """A user's function (image (3, H, W) in [0, 1], seed) -> Params of one SIREN.

    If it has parameters `width` and `depth`, it is told the network's. It may have an attribute
    `epochs`, the pixel visits per pixel that it costs: a number, or a function of the image; and
    `train_hashes`, `image_hash` of every photograph it was made from, which it is not tested on.
    Records identify it by the SHA-256 of the file it is in, and of those of your own modules that
    this one imports; installed packages are none of these.

    Args:
        source: "FILE.py:FUNCTION", or "MODULE:FUNCTION" with a module that can be imported.
        width, depth: Of the SIREN that is wanted.

    Raises:
        InputError: no such file, module or function, it cannot be imported, or does not take an
            image and a seed; its `epochs` are no number, negative or not finite; its
            `train_hashes` are no texts.
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
    make = _told(function, {"width": width, "depth": depth}, source)
    return Init(name, make, _epochs_of(function, source), facts, frozenset(made_from))


def _told(function: Any, sizes: Mapping[str, int], source: str) -> Any:
    """A function that is told those sizes that it has parameters for."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in ones have none to look at
        return function
    told = {name: size for name, size in sizes.items() if name in signature.parameters}
    try:
        signature.bind(None, None, **told)
    except TypeError as error:
        raise InputError(
            f"{source} must be a function of (image, seed), and of width and depth if it likes, not"
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
        assert spec is not None and spec.loader is not None  # always so for a .py file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's module raises on import
        reason = " ".join(str(error).split())
        raise InputError(
            f"cannot import {place!r} for an init: {type(error).__name__}: {reason}"
        ) from error


def _own_imports(module: ModuleType) -> dict[str, str]:
    """Name -> SHA-256 of the modules that a user's module imports, and those these do in turn.

    Anywhere in their text, as a function may import when it is called; without what is installed,
    which is not edited between two runs.
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
    """Full names of what a Python file imports, packages on the way and names in them included."""
    if path is None or Path(path).suffix != ".py":
        return
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):  # of a module that only a call would import
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
    """Where a module is, if it is a file that is not installed; None for names that are none."""
    top = name.partition(".")[0]
    if top in (*sys.stdlib_module_names, "hyperinit"):
        return None
    for known in dict.fromkeys((top, name)):  # what is installed is not looked into
        try:
            spec = importlib.util.find_spec(known)
        except (Exception, SystemExit):  # it imports packages on the way
            return None
        if spec is None or any(part in _INSTALLED for part in Path(str(spec.origin)).parts):
            return None
    is_file = spec is not None and spec.has_location and Path(str(spec.origin)).is_file()
    return spec if is_file else None


def _epochs_of(function: Any, source: str) -> Callable[[Tensor], float]:
    """What a user's function costs; refused in one line where that is no usable number.

    Less than nothing would buy free steps in a benchmark, and "3" is a text.
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
