"""`hyperinit fit` of one image or signal: the fit, its messages and its files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.base.arguments import in_flags, named_source
from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, write_or_spare, written_place
from hyperinit.base.outputs import IMAGE, SIREN, check_output, is_same_file
from hyperinit.base.results import count
from hyperinit.base.results import result as print_result
from hyperinit.base.terminal import EpochBar, advising, say

if TYPE_CHECKING:
    from torch import Tensor

    from hyperinit.fitting.config import FitConfig
    from hyperinit.inits.start import Init, Start
    from hyperinit.siren.network import Params, SirenConfig

UNWRITTEN = "nothing was written"


def pixels_of(arguments: argparse.Namespace, image: Tensor | None = None) -> int | None:
    """Pixels of the image, or of every image of a set; None if their sizes differ."""
    if arguments.size is not None:
        return int(prod(arguments.size))
    return None if image is None else image[0].numel()


def check_sizes(asked: tuple[int | None, int | None], init: str, siren: SirenConfig) -> None:
    """Refuses a width or depth that differs from those of an init with a network of its own.

    Args:
        asked: Width and depth as typed; None if not given.
        init: The init's name.
        siren: The network that it brings.

    Raises:
        InputError: they differ; the message names the init's own.
    """
    own = siren.width, siren.depth
    if any(a not in (None, b) for a, b in zip(asked, own, strict=True)):
        named = zip(("--width", "--depth"), asked, strict=True)
        flags = " ".join(f"{flag} {wanted}" for flag, wanted in named if wanted is not None)
        raise InputError(
            f"{flags}: init {init} brings a network of its own; leave that out, or write --width"
            f" {own[0]} --depth {own[1]}"
        )


def check_own_sizes(
    asked: tuple[int | None, int | None], init: Init, size: tuple[int, int] | None
) -> None:
    """`check_sizes` before any image is read, with a plain image of their size if it is known.

    Nothing is refused if the init does not accept the plain image: it may accept the real ones.
    """
    from hyperinit.inits.start import network_of

    if any(asked):
        try:
            own = network_of(init, size or (64, 64))
        except InputError:
            return
        check_sizes(asked, init.name, own)


def check_apart(init: str, folder: Path) -> None:
    """Refuses to write into the directory of SIRENs that an init is made of: a new or changed file
    would change the init, and the same command could not continue.

    Raises:
        InputError: the folder is that directory.
    """
    from hyperinit.inits.neighbours import holds_sirens

    source = Path(named_source(init)[1])
    if holds_sirens(source) and is_same_file(source, folder):
        raise InputError(
            f"{shown_path(folder)}: holds the SIRENs of --init {init}: choose another directory to"
            " write to"
        )


def fit_image(
    arguments: argparse.Namespace,
    init: Init,
    config: FitConfig,
    image: Tensor,
    about: Mapping[str, Any],
    device: Any,
    *,
    asked: tuple[int | None, int | None] = (None, None),
) -> int:
    """Fits one image and writes the files that were asked for.

    Args:
        image, about: The image or signal, and the facts about it, see `read_samples`.
        asked: Width and depth as typed; None if not given.

    Raises:
        InputError: the input is bad or the fit is no better than its start, and nothing is
            written; or a target was missed, which the result on stdout and the files say too.
    """
    from hyperinit.fitting.config import suited
    from hyperinit.images.signals import check_holds, output_suffixes
    from hyperinit.siren.device import choose_threads, on_threads

    if arguments.ray is not None:
        raise InputError("--ray is for a set of images; a single image is one fit")
    inputs = [arguments.image, named_source(arguments.init)[1]]
    if arguments.out is not None:
        check_output(arguments.out, [".safetensors"], SIREN, inputs=inputs)
        check_apart(arguments.init, written_place(arguments.out).parent)
    if arguments.render is not None:
        check_output(
            arguments.render, output_suffixes(image.ndim - 1, len(image)), IMAGE, inputs=inputs
        )
    image = image.to(device)
    start = init.start(image, arguments.seed)
    check_sizes(asked, init.name, start.params.config)
    work = config.step_pixels(image[0].numel()) * start.params.config.width**2
    config = suited(replace(config, batch_pixels=config.step_pixels(image[0].numel())), start)
    if arguments.target_mse is None:
        # The best evaluation is kept, so evaluations must not depend on a progress bar.
        config = replace(config, eval_epochs=looks(config))
    facts: dict[str, Any] = {"init": init.name, "fit": asdict(config), **about}
    if arguments.render is not None:  # checked before work that would be lost
        rate_hz = facts.get("signal", {}).get("rate_hz")
        check_holds(arguments.render, len(image), image.shape[1:], rate_hz)
    do = _fit_budget if arguments.target_mse is None else _fit_to_target
    with on_threads(choose_threads(arguments.threads, work)):
        text, fields, missed = do(arguments, start, image, config, facts)
    files = {"out": arguments.out, "render": arguments.render}
    named = {what: None if path is None else str(path) for what, path in files.items()}
    names = {"image": str(arguments.image), "init": init.name}
    print_result("fit", None if missed else text, **{**named, **names, **fields})
    if missed:
        raise InputError(f"{text}; {missed}")
    return 0


def _fit_budget(
    arguments: argparse.Namespace,
    start: Start,
    image: Tensor,
    config: FitConfig,
    facts: dict[str, Any],
) -> tuple[str, dict[str, Any], str]:
    """Fits over the declared budget and writes the result; returns a line, its fields and ""."""
    from hyperinit.fitting.fit import failure, fit, too_small

    with advising(UNWRITTEN), EpochBar(config.budget_epochs) as bar:
        result = fit(
            *(start, image, config),
            on_eval=lambda point: bar.show(point.epochs, point.mse),
            on_progress=bar.step if bar.is_shown else None,
        )
    name = shown_path(arguments.image)
    first, last, kept = result.curve[0], result.curve[-1], result.kept
    if reason := failure(result):
        raise InputError(f"{name}: from {facts['init']}: {in_flags(reason)}")
    facts |= {"mse": kept.mse, "psnr": kept.psnr, "lr": result.lr, "restarts": result.restarts}
    facts |= {"collapses": list(result.collapses), "became": dict(result.became)}
    _write(arguments, result.params, image, facts)
    if warning := too_small(result):
        say(f"{name}: warning: {warning} (--width)")
    restarted = f", restarted with learning rate {result.lr:g}" if result.restarts else ""
    if result.collapses and not result.restarts:
        restarted = f", taken back after a collapse at {result.collapses[0]:.2f} epochs"
    text = (
        f"{name}: from {facts['init']}, PSNR {first.psnr:.2f} -> {kept.psnr:.2f} dB, "
        f"{_shown_mse(kept.mse, facts)}, {last.epochs:.2f} epochs, {last.steps} steps, "
        f"{last.sec:.2f} s{restarted}"
    )
    fields = {"psnr": kept.psnr, "mse": kept.mse, "psnr_start": first.psnr, "epochs": last.epochs}
    return text, {**fields, "sec": last.sec, "attempts": result.restarts + 1, "reached": None}, ""


def _fit_to_target(
    arguments: argparse.Namespace,
    start: Start,
    image: Tensor,
    config: FitConfig,
    facts: dict[str, Any],
) -> tuple[str, dict[str, Any], str]:
    """Fits until the error is at the target; writes any improvement, even if the target is missed.

    Returns a line about the result, its fields, and, if the target was missed, what may help and
    where the best result so far is.
    """
    from hyperinit.fitting.target import advice, fit_to_target

    target, name = arguments.target_mse, shown_path(arguments.image)
    with advising(UNWRITTEN), EpochBar(config.budget_epochs) as bar:
        result = fit_to_target(
            *(start, image, target, config),
            on_progress=lambda now: bar.show(now.epochs, now.mse, now.planned_epochs),
        )
    facts |= {"mse": result.mse, "psnr": result.psnr, "target_mse": target}
    facts["runs"] = [asdict(run) for run in result.runs]
    missed = "" if result.reached else in_flags(advice(result, target))
    better = None if result.reached else _better(arguments.out, facts)
    if written := result.improved and better is None:
        _write(arguments, result.params, image, facts)
    if missed and result.improved:
        missed += _whereabouts(arguments, better)
    outcome = f"{_shown_mse(result.mse, facts)}, PSNR {result.psnr:.2f} dB"
    cost = f"{result.epochs:.2f} epochs, {result.sec:.2f} s in {count(len(result.runs), 'run')}"
    fields = {"psnr": result.psnr, "mse": result.mse, "psnr_start": None, "epochs": result.epochs}
    fields |= {"sec": result.sec, "attempts": len(result.runs), "reached": result.reached}
    fields |= {} if written else {"out": None, "render": None}
    if missed:
        text = f"{name}: --target-mse {target:g} was not reached: {outcome} after {cost}"
        return text, fields, missed
    return f"{name}: from {facts['init']}, {outcome}, {cost}", fields, ""


def _shown_mse(mse: float, facts: Mapping[str, Any]) -> str:
    """An error, with its unit: that of a signal is in the signal's own."""
    return f"MSE {mse:.3g}" + ("" if "signal" in facts else " (normalised)")


def _better(out: Path | None, facts: Mapping[str, Any]) -> float | None:
    """The error of the SIREN of the same image in a file, if it is lower than that in the facts.

    A fit that reached its target replaces any existing file. One that did not must not replace a
    better earlier result.
    """
    from hyperinit.siren.store import load_params

    if out is None or not out.exists():
        return None
    try:
        _, info = load_params(out)
    except InputError:  # damaged, or not a SIREN that a fit wrote
        return None
    mse = info.get("mse")
    known = isinstance(mse, (int, float)) and mse < facts["mse"]
    return mse if known and _content(info) == _content(facts) else None


def _content(facts: Mapping[str, Any]) -> list[Any]:
    """The hash of the image or the signal that facts of a SIREN name."""
    return [one.get("sha256") for one in (*facts.get("images", ()), facts.get("signal", {}))]


def _whereabouts(arguments: argparse.Namespace, better: float | None) -> str:
    """Says where the best result of a fit that missed its target is, to end a message."""
    if better is not None:
        kept = f"is of the same image and better (MSE {better:.3g})"
        return f"; {UNWRITTEN}: {shown_path(arguments.out)} {kept}"
    if arguments.out is not None:
        return f"; the best so far is in {shown_path(arguments.out)}"
    if arguments.render is not None:
        return f"; what the best so far shows is in {shown_path(arguments.render)}"
    return ""


def _write(
    arguments: argparse.Namespace, params: Params, image: Tensor, facts: Mapping[str, Any]
) -> None:
    from hyperinit.images.signals import save_samples
    from hyperinit.siren.signals import render_samples
    from hyperinit.siren.store import save_params

    if arguments.out:
        write_or_spare(arguments.out, lambda path: save_params(path, params, **facts), "the SIREN")
    if arguments.render:
        try:
            rate_hz = facts.get("signal", {}).get("rate_hz")
            save_samples(render_samples(params, image.shape[1:]), arguments.render, rate_hz)
        except InputError as error:
            kept = f"; the SIREN is in {shown_path(arguments.out)}" if arguments.out else ""
            raise InputError(f"{error}{kept}") from error


def looks(config: FitConfig) -> tuple[float, ...]:
    """The evaluation epochs of a fit over a budget; each costs the time of a third of an epoch."""
    every = max(config.budget_epochs / 16, 4.0)
    return (0.5, *(every * (k + 1) for k in range(ceil(config.budget_epochs / every) - 1)))
