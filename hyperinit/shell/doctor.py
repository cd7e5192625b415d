"""`hyperinit doctor`: what is installed, what is missing, and what will fail, on one screen."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from hyperinit.base.arguments import Parser, add_manner
from hyperinit.base.errors import free_memory
from hyperinit.base.extras import EXTRAS, has_key
from hyperinit.base.results import manner, results
from hyperinit.base.terminal import shown_bytes

State = Literal["ok", "note", "fails"]

LEAST_FREE_BYTES = 2**26  # on a disk: a hypernetwork's checkpoint and its successor
SMALL_FREE_BYTES = 2**30
SMALL_MEMORY_BYTES = 2**30
VALUE_CHARS = 60  # of a finding's value on the screen

NEEDED = ("torch", "numpy", "pillow", "safetensors", "tqdm", "jinja2", "filelock")
USUAL = ("torchvision", "wandb", "scipy", "matplotlib", "scikit-image", "higher")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: What was checked.
        state: "ok"; "note" (worth knowing); or "fails" (commands will fail).
        value: What was found.
        advice: What to do about it; "" if nothing.
    """

    name: str
    state: State
    value: str
    advice: str = ""


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog,
        description="Checks this machine and says what will not work.",
        epilog="Exit code: 0; 1 if something will fail.",
    )
    add_manner(parser)
    return parser


def main(argv: Sequence[str], prog: str = "hyperinit doctor") -> int:
    """Runs `hyperinit doctor`: 1 if something will fail."""
    build(prog).parse_args(argv)
    found = findings()
    shown = [f for f in found if f.state != "ok"] if manner().quiet else found
    if shown or manner().json:
        results("check", "\n".join(_line(f) for f in shown), [asdict(f) for f in shown])
    return 1 if any(f.state == "fails" for f in found) else 0


def findings() -> list[Finding]:
    """The results of all checks; a check that cannot be made is a finding too."""
    found: list[Finding] = []
    for name, look in LOOKS.items():
        try:
            for finding in look():
                found.append(finding)
        except Exception as error:  # checks on a broken machine can raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            found.append(Finding(name, "note", f"cannot be checked ({reason})"))
    return found


def _line(found: Finding) -> str:
    mark = {"ok": "ok   ", "note": "note ", "fails": "FAILS"}[found.state]
    value = found.value if found.value.isprintable() else repr(found.value)
    if len(value) > VALUE_CHARS and found.state == "ok":
        value = value[: VALUE_CHARS - 3] + "..."
    return f"{mark}  {found.name:<9} {value}{': ' if found.advice else ''}{found.advice}"


def _versions() -> Iterator[Finding]:
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("hyperinit", "ok", f"{_version('hyperinit') or 'a checkout'}, {python}")
    missing = [name for name in NEEDED if _version(name) is None]
    if missing:
        advice = f"pip install {' '.join(missing)}"
        yield Finding("packages", "fails", f"{', '.join(missing)} missing", advice)
    else:
        shown = ", ".join(f"{name} {_version(name)}" for name in NEEDED[:3])
        absent = [name for name in USUAL if _version(name) is None]
        state: State = "note" if absent else "ok"
        without = f"; without {', '.join(absent)}" if absent else ""
        advice = f"pip install {' '.join(absent)}, if you need them" if absent else ""
        yield Finding("packages", state, shown + without, advice)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a library is missing, or for another processor
        reason = " ".join(str(error).split())
        yield Finding("torch", "fails", f"cannot be imported ({reason})", "reinstall it")
        return
    cores = _cores()
    threads = torch.get_num_threads()
    value = f"{threads} of torch on {cores} cores"
    if threads > cores:
        yield Finding("threads", "note", value, f"set OMP_NUM_THREADS={cores}: more are slower")
    else:
        yield Finding("threads", "ok", value)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("device", "ok", f"cuda: {', '.join(names)}")
    elif getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
        yield Finding("device", "ok", "mps")
    elif torch.version.cuda and Path("/proc/driver/nvidia").exists():
        advice = "check whether the driver is new enough; fits use the CPU"
        value = f"a GPU that torch for CUDA {torch.version.cuda} cannot use"
        yield Finding("device", "note", value, advice)
    else:
        yield Finding("device", "ok", "cpu")


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def _load() -> Iterator[Finding]:
    cores, (load, *_) = _cores(), os.getloadavg()
    if load > 1.5 * cores:
        advice = "fits take longer, and seconds measured now are useless"
        yield Finding("load", "note", f"{load:.1f} on {cores} cores", advice)
    else:
        yield Finding("load", "ok", f"{load:.1f} on {cores} cores")


def _memory() -> Iterator[Finding]:
    free = free_memory()  # as fits count it: a container may have less than its machine
    if free is None:
        yield Finding("memory", "ok", "the system does not say what is free")
        return
    advice = "small images and `--batch-images 1` need less" if free < SMALL_MEMORY_BYTES else ""
    yield Finding("memory", "note" if advice else "ok", f"{shown_bytes(free)} free", advice)


def _compiler() -> Iterator[Finding]:
    wanted = os.environ.get("CXX") or "g++"
    found = next(filter(None, map(shutil.which, (wanted, "g++", "clang++", "c++", "cl"))), None)
    if found is None:
        advice = "long fits run uncompiled, which is slower; install g++"
        yield Finding("compiler", "note", "no C++ compiler", advice)
    else:
        yield Finding("compiler", "ok", found)


def _cache() -> Iterator[Finding]:
    place = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if place is None:
        return
    if not _is_writable(Path(place)):
        advice = "long fits run uncompiled; set TORCHINDUCTOR_CACHE_DIR to a writable directory"
        yield Finding("cache", "note", f"{place} cannot be written to", advice)


def _downloads() -> Iterator[Finding]:
    places = {
        "data sets": Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"),
        "the Hub": Path(os.environ.get("HF_HOME") or Path.home() / ".cache"),
    }
    bad = {what: place for what, place in places.items() if not _is_writable(place)}
    for what, place in bad.items():
        variable = "XDG_CACHE_HOME" if what == "data sets" else "HF_HOME"
        advice = f"set {variable}, or nothing can be downloaded"
        yield Finding("cache", "note", f"{place}, for {what}, cannot be written to", advice)
    if not bad:
        yield Finding("cache", "ok", ", ".join(sorted({str(place) for place in places.values()})))


def _disks() -> Iterator[Finding]:
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:
        advice = "set TMPDIR to a writable directory"
        yield Finding("temporary", "fails", "no directory for temporary files", advice)
    else:
        yield _disk("temporary", temporary)
    here = Path(os.getcwd())
    if not _is_writable(here):
        advice = "runs/ and report/ cannot be created here; use -o and --out, or another directory"
        yield Finding("directory", "note", f"{here} cannot be written to", advice)
    else:
        yield _disk("directory", here)


def _disk(name: str, place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    value = f"{place}, {shown_bytes(free)} free"
    if free < LEAST_FREE_BYTES:
        return Finding(name, "fails", value, "make room")
    if free < SMALL_FREE_BYTES:
        return Finding(name, "note", value, "a long run may need more")
    return Finding(name, "ok", value)


def _is_writable(place: Path) -> bool:
    """Whether a file can be created there, or in the nearest existing parent."""
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def _terminal() -> Iterator[Finding]:
    shown = getattr(sys.stdout, "encoding", None) or "none"
    files, wanted = sys.getfilesystemencoding(), locale.getpreferredencoding(False)
    value = f"output {shown}, file names {files}, locale {wanted}"
    try:
        "ü → 漢".encode(shown)
        "ü漢".encode(files)
    except (UnicodeEncodeError, LookupError):
        advice = "other characters are shown as escapes; set PYTHONUTF8=1"
        yield Finding("encoding", "note", value, advice)
    else:
        yield Finding("encoding", "ok", value)


def _wandb() -> Iterator[Finding]:
    mode = os.environ.get("WANDB_MODE")
    keyed = has_key(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    if mode == "online" and not keyed:
        advice = "runs are logged offline: `wandb login`, or WANDB_MODE=offline"
        yield Finding("W&B", "note", "WANDB_MODE=online without a key", advice)
    else:
        what = mode or ("online" if keyed else "offline")
        yield Finding("W&B", "ok", f"{what}, {'a key' if keyed else 'no key'}")


def _extras() -> Iterator[Finding]:
    there = [name for name, extra in EXTRAS.items() if extra.is_installed]
    missing = [name for name in EXTRAS if name not in there]
    value = f"{', '.join(there) or 'none'}; without {', '.join(missing) or 'none'}"
    advice = f"pip install 'hyperinit[{','.join(missing)}]'" if missing else ""
    yield Finding("extras", "ok", value, advice)


# The checks, in the order of the screen.
LOOKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "device": _device,
    "load": _load,
    "memory": _memory,
    "compiler": _compiler,
    "cache": _downloads,
    "compiled": _cache,
    "disks": _disks,
    "encoding": _terminal,
    "W&B": _wandb,
    "extras": _extras,
}
