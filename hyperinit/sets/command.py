"""`hyperinit fit SET`: its checks and messages before, during and after the fits of a set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any

from hyperinit.base.arguments import in_flags
from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.base.outputs import check_directory
from hyperinit.base.results import count
from hyperinit.base.results import result as print_result
from hyperinit.base.terminal import Countdown, advising, say, shown_bytes, shown_sec
from hyperinit.fitting.command import check_apart, pixels_of
from hyperinit.fitting.config import FitConfig
from hyperinit.fitting.descent import FitResult
from hyperinit.fitting.fit import too_small
from hyperinit.fitting.target import TargetResult
from hyperinit.hypernet.untrained import expected_epochs, many_epochs
from hyperinit.inits.start import Init
from hyperinit.photos.load import open_source
from hyperinit.sets.directory import BATCH_IMAGES, DirectoryReport, fit_directory, result_name
from hyperinit.sets.on_the_way import OnTheWay
from hyperinit.sets.results import HOW, Fitted, stored_facts
from hyperinit.siren.device import choose_threads, on_threads
from hyperinit.siren.store import PARAMS_KIND, read_info
from hyperinit.spread.engines import engine_of

# From this many images on, starts learned on the way are ahead, even counting what they cost the
# first images (docs/research-log.md 52), except for fits that start from many steps (95).
LEARN_IMAGES = 100
FIRST_IMAGES = 32  # images that use the default init, before there is enough to learn from
DRY_IMAGES = 4  # that `--dry-run` fits


def fit_images(
    arguments: argparse.Namespace, init: Init, base: Init | None, config: FitConfig, device: Any
) -> int:
    """Fits all images of a set; returns 1 if some have no result or missed the target.

    Args:
        arguments: Of `hyperinit fit`.
        init: The init of fits that learn no starts.
        base: The init to which a learned correction is added; None: `init`, which was named.

    Raises:
        InputError: the input is bad, or no image has a result.
    """
    source, out = shown_path(arguments.image), arguments.out
    if out is None and not arguments.dry_run:
        raise InputError(f"{source} is a set of images; give a directory for results: -o OUT_DIR")
    if arguments.render is not None:
        raise InputError("--render is for one image; use `hyperinit render` on the results")
    if out is not None:
        check_directory(out, may_be_made=True)
        check_apart(arguments.init, out)
    images = open_source(arguments.image, arguments.limit)
    names = images.names if arguments.limit is None else images.names[: arguments.limit]
    init = _with_learning(init, base, arguments, config, names)
    told = Told(Countdown(len(names) + len(images.skipped)))
    work = config.step_pixels(prod(arguments.size or (512, 512))) * arguments.width**2
    work *= BATCH_IMAGES if arguments.batch_images is None else arguments.batch_images

    def run(out: Path, told: Told, most_images: int | None) -> DirectoryReport:
        return fit_directory(
            images,
            out,
            init,
            config,
            target_mse=arguments.target_mse,
            size=arguments.size,
            batch_images=arguments.batch_images,
            most_images=most_images,
            device=engine.device or device,
            spread=engine,
            eval_epochs=(),  # only start and end
            on_fitted=told.fitted,
            on_failed=told.failed,
            on_finished=told.finished,
        )

    kept = advising("finished images are kept; the same command continues")
    ray = engine_of(arguments.ray, threads=arguments.threads, gpus=arguments.ray_gpus)
    with ray as engine, on_threads(choose_threads(arguments.threads, work)), kept:
        if arguments.dry_run:
            with TemporaryDirectory() as scratch:
                few = min(DRY_IMAGES, arguments.limit or DRY_IMAGES)
                tried = run(Path(scratch), Told(Countdown(few), quiet=True), few)
                made = sorted(Path(scratch).glob("*.safetensors"))
                text = estimate(names, tried, made, out, init)
            print_result("estimate", text, text=text)
            return 0
        report = run(out, told, arguments.limit)
    _tell(report, source, out)
    return 1 if report.failed or report.missed else 0


def _tell(report: DirectoryReport, source: str, out: Path) -> None:
    """Prints the outcome of a set.

    Raises:
        InputError: no image has a result.
    """
    counts = f"{report.fitted} fitted, {report.finished} finished before"
    counts += f", {len(report.missed)} short of the target" if report.missed else ""
    counts += f", {len(report.failed)} without a result" if report.failed else ""
    if not report.fitted and not report.finished:
        raise InputError(f"{source}: no image could be fitted; the reasons are above")
    print_result(
        "directory",
        f"{shown_path(out)}: {counts}; {report.images_per_hour:.0f} images per hour",
        out=str(out),
        fitted=report.fitted,
        finished=report.finished,
        missed=len(report.missed),
        failed=len(report.failed),
        images_per_hour=report.images_per_hour,
    )


def _with_learning(
    init: Init,
    base: Init | None,
    arguments: argparse.Namespace,
    config: FitConfig,
    names: Sequence[str],
) -> Init:
    """The init of a set's fits: one that learns on the way, if asked for or if it pays.

    Without --learn or --no-learn, existing results decide: a set that has grown, or of which a few
    images were tried, continues as it began.
    """
    learn = arguments.learn
    if arguments.ray is not None:  # its fits do not end in order
        if learn:
            raise InputError("--learn is for one process; leave out --ray")
        learn = False
    if learn is None and arguments.out is not None:
        learn = _learned_before(arguments.out, names)
    if learn is None:  # a named init is used as it is
        epochs = expected_epochs(config.budget_epochs, arguments.target_mse)
        is_short = epochs < many_epochs(pixels_of(arguments))
        learn = base is not None and is_short and len(names) >= LEARN_IMAGES
    if not learn:
        return init
    return OnTheWay(base or init, init, 0 if base is None else FIRST_IMAGES).init


def _learned_before(out: Path, names: Sequence[str]) -> bool | None:
    """Whether the first result used learned starts; None if there is no result."""
    if not any(out.glob("*.safetensors")):  # avoids a useless search through a large set
        return None
    for path in (out / result_name(name) for name in names):
        with suppress(InputError):  # missing, damaged or of another kind
            init_facts = read_info(path, PARAMS_KIND).get("init_facts")
            return isinstance(init_facts, dict) and "on_the_way" in init_facts
    return None


def estimate(
    names: Sequence[str], tried: DirectoryReport, made: Sequence[Path], out: Path | None, init: Init
) -> str:
    """The estimated cost of a set, in a line or two.

    Args:
        names: Names of all images.
        tried: The report of the few trial fits.
        made: Their results.
        out: Where results will go, if known.
        init: The init of the fits.

    Raises:
        InputError: none could be fitted, or `out` holds a result that was made differently.
    """
    if not tried.fitted:
        reason = in_flags(tried.failed[0][1])
        raise InputError(f"none of the first images could be fitted: {reason}")
    finished = 0
    if out is not None:
        said = read_info(made[0], PARAMS_KIND)
        how = {key: said[key] for key in HOW if key in said}
        finished = sum(stored_facts(out / result_name(name), how) is not None for name in names)
    left, sec = len(names) - finished, tried.sec / tried.fitted
    need = left * sum(path.stat().st_size for path in made) / len(made)
    text = (
        f"{count(len(names), 'image')}, {finished} finished: about {shown_sec(sec * left)} and"
        f" {shown_bytes(need)} for the rest ({sec:.2g} s per image from {init.name}, by"
        f" {tried.fitted} fitted and thrown away)"
    )
    if out is None:
        return text
    at = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = disk_usage(at).free
    return text if need < free else f"{text}; only {shown_bytes(free)} are free"


@dataclass
class Told:
    """Prints the outcome of each image of a set, how many are left and how long they will take."""

    count: Countdown
    quiet: bool = False
    counted: str = ""  # the last counted image; one that misses its target is reported twice

    def fitted(self, name: str, result: Fitted) -> None:
        """Called when a file has been written."""
        if self.quiet:
            return
        end = result if isinstance(result, TargetResult) else result.kept
        text = f"{shown_path(name)}: PSNR {end.psnr:.2f} dB, MSE {end.mse:.3g}"
        text += f", {end.epochs:.2f} epochs" if isinstance(end, TargetResult) else ""
        done, self.counted = self.count.worked(), name
        fields = {"psnr": end.psnr, "mse": end.mse, "done": done}
        print_result("image", f"{text} ({done})", image=name, **fields)
        if isinstance(result, FitResult) and (warning := too_small(result)):
            say(f"{shown_path(name)}: warning: {warning} (--width)")

    def failed(self, name: str, reason: str) -> None:
        """Called when an image gets no file, or its error is above the target."""
        done = "" if name == self.counted else f" ({self.count.passed()})"
        tell_failed(name, reason, done)

    def finished(self, name: str) -> None:
        """Called when a file was there already."""
        self.count.passed()
        self.counted = name


def tell_failed(name: str, reason: str, done: str = "") -> None:
    """Prints that an image of a set has no result, and the progress of the set."""
    reason = in_flags(reason)
    print(f"{shown_path(name)}: {reason}{done}", file=sys.stderr, flush=True)
    print_result("failed", None, image=name, reason=reason)
