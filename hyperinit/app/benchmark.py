"""A command line -> a plan, its records, and a table: what the scripts that measure have in common.

The table of inits and the images come from outside this package, see Catalogue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hyperinit.base.errors import InputError
from hyperinit.base.files import write_atomically
from hyperinit.base.settings import Parser, build_parser, resolve
from hyperinit.bench.plan import Entry, Plan, frozen_variants, with_changes
from hyperinit.bench.run import RecordFile, epoch_sec, open_records, run, verify
from hyperinit.bench.sources import InitMaker, load_init
from hyperinit.bench.trial import Trial
from hyperinit.fitting.config import fit_options
from hyperinit.inits.rules import InitSpec
from hyperinit.photos.workload import NamedImage
from hyperinit.record.protocol import PROTOCOLS, Protocol
from hyperinit.record.records import CurvePoint, Record
from hyperinit.record.thumbnails import Thumbnails, folder_of
from hyperinit.record.tracks import TRACKS, Track, find_track
from hyperinit.report.charts import figures, png
from hyperinit.report.tables import markdown
from hyperinit.score.score import score_groups

ALL_ROWS = "all-rows"
SEED_WEIGHT_DECAY = 0.01  # AdamW's default, for inits that are no row of the source's table
SAME = 1e-6  # largest relative difference of a rerun's error

Images = tuple[list[NamedImage], list[tuple[str, str]]]  # and what was skipped: name, reason


@dataclass(frozen=True)
class Catalogue:
    """What a checkout has and the package has not.

    Attributes:
        rows: Name -> (hand-designed init, its weight decay in the seed track).
        images_to_test: (sources, size in pixels, limit or None) -> images.
        images_to_tune_on: (sources, size in pixels, count) -> images.
        image_names: Data sets that can be given as sources.
        rules: Name -> further hand-designed inits: with a number to tune, or an eye on the image.
    """

    rows: Mapping[str, tuple[InitSpec, float]]
    images_to_test: Callable[[Sequence[str], int, int | None], Images]
    images_to_tune_on: Callable[[Sequence[str], int, int], Images]
    image_names: Sequence[str]
    rules: Mapping[str, InitSpec | InitMaker] = field(default_factory=dict)


def build(prog: str, description: str, *, inits: Sequence[str], track: str | None) -> Parser:
    """The command line; a script that is for one track has no `--track`."""
    parser = Parser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    if track is None:
        names = tuple(name for name, row in TRACKS.items() if not row.own_command)
        add("--track", choices=names, default="tuned", help="see above (default: tuned)")
        add("--fit", nargs="+", metavar="K=V", help="open track: fields of FitConfig to change")
        stop = "seed track: stop once the training loss and the error are at or below this"
        add("--stop-mse", type=float, metavar="X", help=stop)
        rate = "seed track: this learning rate instead of the range test's; names say so"
        add("--lr", type=float, metavar="X", help=rate)
    else:
        parser.set_defaults(track=track, fit=None, stop_mse=None, lr=None)
    add(
        *("--inits",),
        nargs="+",
        default=list(inits),
        metavar="INIT",
        help=f"rows and rules by name, {ALL_ROWS}, a .safetensors file, a run directory or "
        "checkpoint, a directory of fitted SIRENs (the nearest is taken), FILE.py:FUNCTION or "
        "MODULE:FUNCTION; NAME=INIT names it, ROW@X has its first layer times X, RULE@X another "
        f"number (default: {' '.join(inits)})",
    )
    add(
        *("--images",),
        nargs="+",
        default=["builtin"],
        metavar="IMAGE",
        help="files, directories or data sets to test on (default: builtin)",
    )
    add(
        *("--tuning-images",),
        nargs="+",
        default=["builtin"],
        metavar="IMAGE",
        help="the same to choose learning rates on, lr_images of them (default: builtin)",
    )
    add("--limit", type=int, metavar="N", help="test on at most N images")
    add("--seeds", type=int, default=2, metavar="N", help="seeds per image (default: 2)")
    add("--out", type=Path, metavar="FILE", help="records (default: runs/benchmark-TRACK.jsonl)")
    add("--thumbnails", action="store_true", help="keep small pictures of the fits, for a report")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads of a fit (default: 1)")
    workers = "fits at a time (default: as many as there are cores for; on a GPU 1)"
    add("--workers", type=int, metavar="N", help=workers)
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--quick", action="store_true", help="small images, short budgets: about three minutes")
    add("--list", action="store_true", help="print the names of inits and data sets, and exit")
    add("--dry-run", action="store_true", help="print what would be run and its cost, and exit")
    add("--verify", type=int, metavar="N", help="run N stored trials again and compare, and exit")
    return build_parser(Protocol, PROTOCOLS, parser)


def main(
    argv: Sequence[str] | None,
    catalogue: Catalogue,
    *,
    prog: str,
    description: str,
    inits: Sequence[str] = ("paper", "22", "33"),
    track: str | None = None,
) -> int:
    """Returns the exit code: 0, 1 if a check failed, 2 for bad input, 130 after Ctrl-C."""
    parser = build(prog, description, inits=inits, track=track)
    arguments = parser.parse_args(argv)
    try:
        if arguments.list:
            print(f"inits: {' '.join(catalogue.rows)} {ALL_ROWS}")
            if catalogue.rules:
                print(f"rules: {' '.join(catalogue.rules)}")
            print(f"images: {' '.join(catalogue.image_names)}, files, directories")
            return 0
        workers = set_threads(arguments.threads, arguments.workers, arguments.device)
        plan = make_plan(arguments, catalogue)
        suffix = "-quick" if arguments.quick else ""
        out = arguments.out or Path("runs") / f"benchmark-{plan.track}{suffix}.jsonl"
        say(describe(plan, out, workers))
        if arguments.dry_run:
            return 0
        if arguments.out is None:
            out.parent.mkdir(exist_ok=True)
        thumbnails = Thumbnails(folder_of(out)) if arguments.thumbnails else None
        with open_records(out, thumbnails, workers) as file:
            if arguments.verify is not None:
                _check(arguments.verify >= 1, "--verify must be at least 1")
                return check(plan, file, arguments.verify)
            records = measure(plan, file)
        scores = score_groups(records)
        print(markdown(scores))
        chart, figure = out.with_suffix(".png"), next(iter(figures(scores).values()))
        write_atomically(chart, png(figure))
        say(f"records in {out}, chart in {chart}; more with scripts/report.py {out}")
        return 0
    except KeyboardInterrupt:
        say("stopped; the same command goes on where it was")
        return 130
    except InputError as error:
        parser.error(str(error))


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def set_threads(threads: int, workers: int | None, device: str) -> int:
    """Gives torch a number of threads and returns how many fits to run at a time.

    Two fits on one thread each are faster than one after the other on two: layers are small. How
    many there are must not change what is measured, so the number of threads does not follow it.

    Raises:
        InputError: one of the numbers is below 1.
    """
    _check(threads >= 1, f"--threads must be at least 1, not {threads}")
    cores = torch.get_num_threads()
    if workers is None:
        workers = max(cores // threads, 1) if device == "cpu" else 1
    _check(workers >= 1, f"--workers must be at least 1, not {workers}")
    torch.set_num_threads(threads)
    return workers


def make_plan(arguments: argparse.Namespace, catalogue: Catalogue) -> Plan:
    """What a command line asks for.

    Raises:
        InputError: something in it is unknown, unusable or contradictory.
    """
    track = find_track(arguments.track)
    usual = "quick" if arguments.quick else track.preset
    _check(
        not (arguments.quick and (arguments.preset or track.along_curve)),
        "--quick is a preset of the ladder's tracks: leave out --preset or --track seed",
    )
    arguments.preset = arguments.preset or usual
    protocol = resolve(Protocol, arguments, PROTOCOLS)
    _check(arguments.limit is None or arguments.limit >= 1, "--limit must be at least 1")
    _check(not arguments.fit or track.takes_options, "--fit is for the open track")
    _check(arguments.stop_mse is None or track.along_curve, "--stop-mse is for the seed track")
    lr = arguments.lr
    _check(lr is None or track.along_curve, "--lr is for the seed track, others have --lrs")
    _check(lr is None or 0 < lr < inf, f"--lr must be positive, not {lr}")
    entries = _entries(arguments.inits, track, catalogue, protocol)
    if lr is not None:
        entries = [with_changes(entry, {"lr": lr}) for entry in entries]
    declared = ("budget_epochs", "lr", "seed", "eval_epochs")
    options = fit_options(arguments.fit or (), declared, "the protocol")
    entries = [with_changes(entry, options) for entry in entries]
    if track.freezes_layers:
        entries = [v for entry in entries for v in frozen_variants(entry, protocol.depth)]
    tested, skipped = catalogue.images_to_test(
        arguments.images, protocol.image_size, arguments.limit
    )
    tuned: list[NamedImage] = []
    if not track.along_curve:
        tuned, more = catalogue.images_to_tune_on(
            arguments.tuning_images, protocol.image_size, protocol.lr_images
        )
        skipped = [*skipped, *more]
    for name, reason in skipped:
        say(f"skipped {name}: {reason}")
    on_device = _mover(arguments.device)
    return Plan(
        track=track.name,
        entries=tuple(entries),
        images=tuple(map(on_device, tested)),
        tuning_images=tuple(map(on_device, tuned)),
        seeds=arguments.seeds,
        protocol=protocol,
        stop_mse=arguments.stop_mse,
    )


def _entries(
    sources: Sequence[str], track: Track, catalogue: Catalogue, protocol: Protocol
) -> list[Entry]:
    """All inits of a command line, each row once, with what its source has for its fit."""
    names: list[str] = []
    for source in sources:
        if source != ALL_ROWS:
            names.append(source)
            continue
        # Rows that differ in their image only, or where it makes no difference in weight decay,
        # are the same trials.
        distinct = {
            (s, decay if track.source_weight_decay else 0): n
            for n, (s, decay) in _reversed(catalogue.rows)
        }
        names += [name for name in catalogue.rows if name in distinct.values()]
    named: dict[str, InitSpec | InitMaker] = {n: spec for n, (spec, _) in catalogue.rows.items()}
    named |= catalogue.rules
    found = []
    for name in dict.fromkeys(names):
        init = load_init(name, named, protocol.width, protocol.depth)
        source_fit = {}
        if track.source_weight_decay:
            row = name.rpartition("=")[2].partition("@")[0]
            decay = catalogue.rows[row][1] if row in catalogue.rows else SEED_WEIGHT_DECAY
            source_fit = {"weight_decay": decay}
        found.append(Entry(init, source_fit=source_fit))
    return found


def _reversed(rows: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Last first, so that the first of several equal ones stays in a dict."""
    return list(rows.items())[::-1]


def _mover(device: str) -> Callable[[NamedImage], NamedImage]:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device} cannot be used: {reason}") from error
    return lambda image: replace(image, image=image.image.to(device))


def describe(plan: Plan, out: Path, workers: int) -> str:
    """What is about to be run, and what it will cost here at most."""
    hours = plan.total_epochs * epoch_sec(plan, workers) / 3600
    cost = f"{hours:.1f} hours" if hours >= 1.5 else f"{hours * 60:.1f} minutes"
    budgets = ", ".join(f"{budget:g}" for budget in plan.protocol.budgets_epochs)
    return (
        f"{plan.track} track: inits {', '.join(entry.label for entry in plan.entries)}\n"
        f"test images {', '.join(image.name for image in plan.images)}; seeds {plan.seeds}\n"
        f"tuning images {', '.join(image.name for image in plan.tuning_images) or 'none'}\n"
        f"budgets {budgets} epochs; at most {plan.total_epochs:.0f} epochs, {cost} here;"
        f" records in {out}"
    )


def measure(plan: Plan, file: RecordFile) -> list[Record]:
    """All records of a plan, under a progress bar that counts epochs."""
    records = []
    with _bar(total=round(plan.total_epochs, 1), unit="epoch") as bar:
        done = 0.0
        running: dict[tuple[Any, ...], float] = {}  # trial -> epochs

        def on_eval(trial: Trial, point: CurvePoint) -> None:
            running[trial.key] = point.epochs
            bar.set_postfix_str(f"MSE {point.mse:.2e}", refresh=False)
            bar.update(done + sum(list(running.values())) - bar.n)

        for record in run(plan, file, on_eval):
            records.append(record)
            done += record.budget_epochs
            running.pop(record.trial, None)
            bar.set_description_str(f"{record.label} {record.budget_epochs:g}", refresh=False)
            bar.update(done + sum(list(running.values())) - bar.n)
    return records


def check(plan: Plan, file: RecordFile, count: int) -> int:
    """Prints how far reruns of stored trials are from their records; 1 if any is too far."""
    differences = []
    for found in verify(plan, file, count):
        differences.append(found.difference)
        old, new = found.record, found.again
        others = [k for k, v in old.environment.items() if new.environment.get(k) != v]
        note = f" ({', '.join(others)} differ)" if others else ""
        print(
            f"{old.label}, {old.image}, seed {old.seed}, {old.budget_epochs:g} epochs, LR"
            f" {old.lr:g}: {old.mse:.6e} then, {new.mse:.6e} now{note}"
        )
    same = sum(difference <= SAME for difference in differences)
    print(f"{same}/{len(differences)} the same to {SAME:g}; worst {max(differences):.1e}")
    return 0 if same == len(differences) else 1


def _bar(**settings: Any) -> Any:
    """A progress bar on stderr; a line every half minute where that is not a terminal."""
    form = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} epochs, {remaining}{postfix}"
    every = 0.5 if sys.stderr.isatty() else 30
    return tqdm(mininterval=every, bar_format=form, **settings)


def say(text: str) -> None:
    """Lines for the user, beside the progress bar."""
    tqdm.write(text, file=sys.stderr)
