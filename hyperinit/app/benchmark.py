"""`hyperinit benchmark`: a command line -> a plan, its records, and a table.

    hyperinit benchmark --quick                        three minutes, small images
    hyperinit benchmark my_init.py:make --quick        an init of your own beside 33
    hyperinit benchmark --images DIR --limit 8         paper, 22 and 33; about an hour
    hyperinit benchmark --images DIR --inits all-rows  the seed experiment's whole table
    hyperinit benchmark --images DIR --inits 33 runs/NAME my_init.py:start
    hyperinit benchmark --track seed --images cat.jpg --inits 33 --seeds 1
    hyperinit benchmark --track open --inits 33 --fit sampler=points
    hyperinit benchmark --track frozen --inits 33      which layers must be trained?
    hyperinit benchmark --images DIR --verify 3        reruns three stored trials

tuned   every init is fitted alike, each at its own best learning rate, on a ladder of budgets that
        are declared in advance; rates are chosen on tuning images
seed    as in the seed experiment: constant rate from an LR range test, random points
published  as in most papers: all pixels per step, Adam at 1e-4; PSNR after 500 to 5,000 steps
open    as tuned, with --fit to change the fit; names of inits then say how
frozen  as tuned, with no layer frozen, each alone, the first two, all but the output layer

Every fit is one line in a file of records. Recorded fits are not run again, so the same command
continues after an interruption. `hyperinit report` makes a page, tables and charts from the file,
with pictures of the fits if they were kept (--thumbnails).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinit.base.arguments import (
    COUNT,
    MAX_RATE,
    RATE,
    THREADS,
    Parser,
    add_device,
    add_manner,
    add_ray,
    number,
    whole,
)
from hyperinit.base.errors import InputError, machine_errors
from hyperinit.base.files import shown_path, write_atomically
from hyperinit.base.outputs import check_directory, check_outside, is_same_file
from hyperinit.base.results import manner, result, results
from hyperinit.base.settings import build_parser
from hyperinit.base.terminal import advising, forgiving_output, progress, say, stoppable
from hyperinit.record.protocol import PROTOCOLS, Protocol
from hyperinit.record.records import beside, is_submission
from hyperinit.record.thumbnails import Thumbnails, folder_of

if TYPE_CHECKING:
    from hyperinit.bench.catalogue import Catalogue
    from hyperinit.bench.plan import Plan
    from hyperinit.bench.run import RecordFile
    from hyperinit.bench.trial import Trial
    from hyperinit.record.records import CurvePoint, Record
    from hyperinit.score.score import GroupScore

TRACK_NAMES = ("tuned", "seed", "published", "open", "frozen")
DEFAULT_INITS: dict[str, Sequence[str]] = {"frozen": ("33",)}  # for other tracks:
USUAL_INITS: Sequence[str] = ("paper", "22", "33")
REFERENCE: Sequence[str] = ("33",)  # added to INITs without --inits, as the reference of ratios

# Suffixes of files that records must not replace: pictures (like their chart), networks, documents.
OTHER_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".safetensors", ".toml", ".md", ".html", ".csv", ".py"),
)
MAX_SEEDS = 10_000  # per image: all trials of a rung are listed before they are run
SAME = 1e-6  # largest relative difference of a rerun's error


def build(
    prog: str, description: str, *, inits: Sequence[str] | None = None, track: str | None = None
) -> Parser:
    """The command line; a script for a single track has no `--track`."""
    parser = Parser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    if track is None:
        add("--track", choices=TRACK_NAMES, default="tuned", help="see above (default: tuned)")
        add("--fit", nargs="+", metavar="K=V", help="open track: fields of FitConfig to change")
        stop = "seed track: stop once the training loss and the error are at or below this"
        add("--stop-mse", type=number(most=MAX_RATE), metavar="X", help=stop)
        rate = "seed track: use this learning rate instead of the range test's; names say so"
        add("--lr", type=RATE, metavar="X", help=rate)
    else:
        parser.set_defaults(track=track, fit=None, stop_mse=None, lr=None)
    _add_what(parser, inits or DEFAULT_INITS.get(track or "", USUAL_INITS), given=inits)
    _add_how(parser)
    return build_parser(Protocol, PROTOCOLS, parser)


def _add_what(parser: Parser, inits: Sequence[str], *, given: Sequence[str] | None) -> None:
    """Adds what to measure, and on which images."""
    add = parser.add_argument
    add(
        "more_inits",
        nargs="*",
        metavar="INIT",
        help="as in --inits; measured together with these, or with 33 if there is no --inits",
    )
    add(
        *("--inits",),
        nargs="+",
        default=given,
        metavar="INIT",
        help="rows and rules by name, all-rows, a .safetensors file, a run directory or "
        "checkpoint, a directory of fitted SIRENs (uses the nearest), FILE.py:FUNCTION or "
        "MODULE:FUNCTION; NAME=INIT names it, ROW@X has its first layer times X, RULE@X another "
        f"number (default: {' '.join(inits)}; in the frozen track 33)",
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
        default=argparse.SUPPRESS,
        metavar="IMAGE",
        help="files, directories or data sets to choose learning rates on; --lr-images of them are"
        " used (default: builtin)",
    )
    add("--limit", type=COUNT, metavar="N", help="test on at most N images")
    seeds = whole(1, MAX_SEEDS)
    add("--seeds", type=seeds, default=2, metavar="N", help="seeds per image (default: 2)")


def _add_how(parser: Parser) -> None:
    """Adds where records go, and how fits are run."""
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", help="records (default: runs/benchmark-TRACK.jsonl)")
    add("--thumbnails", action="store_true", help="keep small pictures of the fits, for a report")
    threads = "CPU threads per fit (default: 1)"
    add("--threads", type=THREADS, default=1, metavar="N", help=threads)
    workers = "fits at a time (default: as many as the cores allow; on a GPU 1)"
    add("--workers", type=THREADS, metavar="N", help=workers)
    add_device(parser, "cpu", "where fits are computed", ", because seconds are compared")
    add_ray(parser, "run fits")
    add("--quick", action="store_true", help="small images, short budgets: about three minutes")
    add("--list", action="store_true", help="print the names of inits and data sets, and exit")
    add("--dry-run", action="store_true", help="print what would be run and its cost, and exit")
    verify = "run N stored trials again and compare, and exit"
    add("--verify", type=COUNT, metavar="N", help=verify)
    add_manner(parser)


def main(
    argv: Sequence[str] | None = None,
    catalogue: Catalogue | None = None,
    *,
    prog: str = "hyperinit benchmark",
    description: str = "",
    inits: Sequence[str] | None = None,
    track: str | None = None,
) -> int:
    """Runs a benchmark.

    Args:
        argv: The command line; None: the process's.
        catalogue: The inits and images by name; None: the package's.
        prog: The command's name in messages.
        description: The text of its help; "": that of `hyperinit benchmark --help`.
        inits: The default of `--inits`; None: the track's.
        track: The only track of this command; None: `--track` chooses.

    Returns:
        The exit code: 0, 1 if a check failed, 2 for bad input, 130, 143 or 129 after a
        signal.
    """
    parser = build(prog, description or __doc__ or "", inits=inits, track=track)
    with forgiving_output():
        arguments = parser.parse_args(argv)

        def work() -> int:
            try:
                from hyperinit.bench.catalogue import PACKAGE

                with machine_errors():
                    return _run(arguments, catalogue or PACKAGE)
            except InputError as error:
                parser.error(str(error))

        return stoppable(work, owns_process=argv is None)


def _run(arguments: argparse.Namespace, catalogue: Catalogue) -> int:
    from hyperinit.bench.declared import declare
    from hyperinit.bench.request import describe, idle_flags, make_plan, set_threads
    from hyperinit.bench.run import open_records
    from hyperinit.photos.load import place_of
    from hyperinit.report.tables import markdown, score_rows
    from hyperinit.score.score import score_groups
    from hyperinit.spread.engines import OnRay, engine_of

    if arguments.list:
        print_names(catalogue)
        return 0
    if arguments.inits is None:
        usual = DEFAULT_INITS.get(arguments.track, USUAL_INITS)
        arguments.inits = REFERENCE if arguments.more_inits else usual
    arguments.inits = [*arguments.inits, *arguments.more_inits]
    idle = idle_flags(arguments)
    if "tuning_images" not in arguments:
        arguments.tuning_images = ["builtin"]
    suffix = "-quick" if arguments.quick else ""
    out = arguments.out or Path("runs") / f"benchmark-{arguments.track}{suffix}.jsonl"
    if arguments.verify is not None and not out.exists():
        raise InputError(f"{shown_path(out)}: no such record file: nothing to verify")
    if not arguments.dry_run:
        check_records_file(out, [*arguments.images, *arguments.tuning_images, *arguments.inits])
        check_outside(out, map(place_of, [*arguments.images, *arguments.tuning_images]))
        check_directory(out.parent, may_be_made=arguments.out is None)
    on_ray = arguments.ray is not None
    if on_ray and arguments.device != "cpu":
        raise InputError("--device is for this machine; with --ray use --ray-gpus")
    workers = set_threads(arguments.threads, 1 if on_ray else arguments.workers, arguments.device)
    plan = make_plan(arguments, catalogue, workers)
    planned = describe(plan, out, workers)
    if idle:
        say(f"ignored in the {plan.track} track: {', '.join(idle)}")
    if arguments.dry_run:
        result("estimate", planned, text=planned)
        return 0
    say(planned)
    if arguments.out is None:
        out.parent.mkdir(exist_ok=True)
    thumbnails = Thumbnails(folder_of(out)) if arguments.thumbnails else None
    again = advising("the same command continues from there")
    if arguments.verify is not None:
        with open_records(out, thumbnails, workers) as file, again:
            return check(plan, file, arguments.verify)
    limits = {"gpus": arguments.ray_gpus, "most": arguments.workers}
    with engine_of(arguments.ray, threads=arguments.threads, **limits) as engine:
        cluster = engine if isinstance(engine, OnRay) else None
        if cluster is not None:
            workers = cluster.workers
            say(f"{workers} fits at a time on Ray; their seconds are not this machine's")
        with open_records(out, thumbnails, workers, cluster) as file, again:
            declare(plan, out)
            records = measure(plan, file)
    scores = score_groups(records)
    results("score", markdown(scores), score_rows(scores))
    draw(scores, out)
    return 0


def print_names(catalogue: Catalogue) -> None:
    """Prints the names of inits and data sets."""
    from hyperinit.bench.request import ALL_ROWS

    text = f"inits: {' '.join(catalogue.rows)} {ALL_ROWS}\nrules: {' '.join(catalogue.rules)}\n"
    text += f"images: {' '.join(catalogue.image_names)}, files, directories"
    names = {"inits": catalogue.rows, "rules": catalogue.rules, "images": catalogue.image_names}
    result("names", text, **{what: list(own) for what, own in names.items()})


def check_records_file(out: Path, inputs: Sequence[str]) -> None:
    """Refuses a bad file for records, or one whose chart would replace another picture.

    Raises:
        InputError: its suffix is that of another kind of file, it is a submission or an input, or
            its chart would replace an input or another picture.
    """
    from hyperinit.report.charts import is_chart

    if out.suffix.lower() in OTHER_SUFFIXES:
        raise InputError(
            f"--out {shown_path(out)}: records are not a {out.suffix} file; choose a name that ends"
            " in .jsonl (their chart is written beside them)"
        )
    if out.exists() and not out.is_file():
        raise InputError(f"--out {shown_path(out)}: is not a file; choose another for the records")
    if is_submission(out):
        raise InputError(
            f"--out {shown_path(out)}: is a submission, which nothing may be added to: choose"
            " another file for the records"
        )
    for path in (out, chart_of(out)):
        for source in inputs:
            if is_same_file(path, source):
                raise InputError(
                    f"--out {shown_path(out)}: {shown_path(path)} is an input and would be"
                    " overwritten; choose another file"
                )
    chart = chart_of(out)
    if chart.is_file() and chart.stat().st_size and not is_chart(chart):
        raise InputError(
            f"--out {shown_path(out)}: {shown_path(chart)}, where the chart goes, is another"
            " picture: choose another file"
        )


def chart_of(out: Path) -> Path:
    """The path of the chart of a record file."""
    return beside(out, ".png")


def draw(scores: Sequence[GroupScore], out: Path) -> None:
    """Writes the chart of records beside them; if that fails, a line says so."""
    from hyperinit.report.charts import figures, png

    chart, figure = chart_of(out), next(iter(figures(scores).values()))
    try:
        write_atomically(chart, png(figure))
    except InputError as error:
        say(f"records in {shown_path(out)}, without a chart: {error}")
        return
    done = f"records in {shown_path(out)}, chart in {shown_path(chart)}"
    say(f"{done}; more with: hyperinit report {shown_path(out)}")


def measure(plan: Plan, file: RecordFile) -> list[Record]:
    """All records of a plan, with a progress bar that counts epochs."""
    from hyperinit.bench.run import run

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
    """Prints how much reruns of stored trials differ from their records; 1 if one is too far."""
    from hyperinit.bench.run import verify

    differences = []
    for found in progress(verify(plan, file, count), total=count, desc="verifying", leave=False):
        differences.append(found.difference)
        old, new = found.record, found.again
        others = [k for k, v in old.environment.items() if new.environment.get(k) != v]
        note = f" ({', '.join(others)} differ)" if others else ""
        result(
            "rerun",
            f"{old.label}, {old.image}, seed {old.seed}, {old.budget_epochs:g} epochs, LR"
            f" {old.lr:g}: {old.mse:.6e} then, {new.mse:.6e} now{note}",
            init=old.label,
            image=old.image,
            seed=old.seed,
            budget_epochs=old.budget_epochs,
            lr=old.lr,
            mse_then=old.mse,
            mse_now=new.mse,
            difference=found.difference,
        )
    same = sum(difference <= SAME for difference in differences)
    if not manner().json:
        print(f"{same}/{len(differences)} equal to within {SAME:g}; worst {max(differences):.1e}")
    return 0 if same == len(differences) else 1


def _bar(**settings: Any) -> Any:
    """A progress bar that counts epochs."""
    form = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} epochs, {remaining} left{postfix}"
    return progress(bar_format=form, **settings)
