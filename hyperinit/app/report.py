"""Turns records into a page, tables and charts, and keeps tables inside documents up to date.

    hyperinit report runs/benchmark-tuned.jsonl -o report    index.html, tables, charts
    hyperinit report ... --wandb-report ENTITY/PROJECT       a W&B report of the same
    hyperinit report --update README.md docs/*.md            rewrites generated blocks
    hyperinit report --check README.md docs/*.md             fails if they are outdated

It runs no fits. The blocks <!-- records: NAME ... --> (with ", ratios to INIT" after the names if
that is not 33), <!-- comparison: NAME --> and <!-- rivals: NAME ... | NAME ... | TABLE --> of a
document are made from baselines/records/NAME.jsonl; the blocks <!-- protocol -->, <!-- rules -->
and <!-- inits --> from the code. Each ends with its <!-- /records --> or the like.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hyperinit.base.arguments import Parser, add_manner
from hyperinit.base.errors import InputError
from hyperinit.base.extras import unsent_runs
from hyperinit.base.files import make_directory, read_small, shown_path, write_atomically
from hyperinit.base.outputs import check_directory
from hyperinit.base.results import count, result, results_markdown
from hyperinit.base.terminal import forgiving_output, progress, say
from hyperinit.publish.latex import latex
from hyperinit.publish.rules import rules_markdown
from hyperinit.record.records import read_some_records
from hyperinit.record.thumbnails import Thumbnails, folder_of
from hyperinit.report.blocks import update_blocks
from hyperinit.report.charts import figures, png
from hyperinit.report.page import page
from hyperinit.report.tables import csv_text
from hyperinit.report.wandb_report import Destination, Story, logged_in, publish, spec
from hyperinit.rooms import rooms_markdown
from hyperinit.score.beside import related_scores

RECORDS_DIR = Path("baselines") / "records"


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("records", nargs="*", type=Path, metavar="RECORDS", help="record files")
    parser.add_argument("-o", "--out", type=Path, help="directory of the report (default: report)")
    parser.add_argument("--reference", metavar="INIT", help="reference of ratios (default: 33)")
    parser.add_argument(
        *("--tune-on-test",),
        action="store_true",
        help="choose learning rates on the test images if records have no tuning runs",
    )
    parser.add_argument(
        *("--wandb-report",),
        metavar="ENTITY/PROJECT",
        help="also make a W&B report; without an API key, report_spec.json describes it",
    )
    parser.add_argument(
        *("--publish",), action="store_true", help="fail if the W&B report cannot be published"
    )
    parser.add_argument("--update", nargs="+", type=Path, metavar="FILE", help="see above")
    parser.add_argument("--check", nargs="+", type=Path, metavar="FILE", help="see above")
    parser.add_argument(
        *("--records-dir",),
        type=Path,
        help=f"directory of the blocks' records (default: {RECORDS_DIR.as_posix()})",
    )
    add_manner(parser)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "hyperinit report") -> int:
    """Returns the exit code: 0, 1 if a document is outdated, 2 for bad input."""
    parser = build(prog)
    with forgiving_output():
        arguments = parser.parse_args(argv)
        try:
            return run(arguments)
        except InputError as error:
            parser.error(str(error))


def run(arguments: argparse.Namespace) -> int:
    """Writes a report, or updates or checks the blocks of documents; returns the exit code."""
    if sum(map(bool, (arguments.records, arguments.update, arguments.check))) != 1:
        raise InputError("give record files, or --update FILE..., or --check FILE...")
    if arguments.publish and not arguments.wandb_report:
        raise InputError("--publish needs --wandb-report ENTITY/PROJECT")
    if arguments.wandb_report and not arguments.records:
        raise InputError("--wandb-report needs record files")
    of_a_report = {"-o": arguments.out, "--reference": arguments.reference}
    of_a_report["--tune-on-test"] = arguments.tune_on_test
    for flag, value in of_a_report.items():
        if value and not arguments.records:
            raise InputError(f"{flag} needs record files; a document's blocks name their own")
    if arguments.records_dir and arguments.records:
        raise InputError("--records-dir is for --update and --check; record files have own paths")
    if arguments.records:
        out = arguments.out or Path("report")
        check_directory(out, may_be_made=True)
        to = Destination.parse(arguments.wandb_report) if arguments.wandb_report else None
        story = write_report(
            arguments.records, out, arguments.reference, tune_on_test=arguments.tune_on_test
        )
        if to is not None:
            write_wandb_report(story, to, out, publish_now=arguments.publish)
        return 0
    documents = arguments.update or arguments.check
    return refresh(documents, arguments.records_dir or RECORDS_DIR, write=bool(arguments.update))


def write_report(
    paths: Sequence[Path], out: Path, reference: str | None, *, tune_on_test: bool = False
) -> Story:
    """Writes index.html, report.md, .csv and .tex, and charts of record files into a directory."""
    records = read_some_records(paths)
    scores = related_scores(records, reference, tune_on_test=tune_on_test, strict=False)
    thumbnails = Thumbnails([folder_of(path) for path in paths])
    story = Story.of(scores, thumbnails)
    html = page(scores, thumbnails=thumbnails, sources=paths)
    text = story.markdown
    make_directory(out)
    write_atomically(out / "index.html", html.encode())
    for name, figure in progress(figures(scores).items(), desc="charts", leave=False):
        write_atomically(out / f"{name}.png", png(figure))
        text += f"\n![{name}]({name}.png)\n"
    write_atomically(out / "report.csv", csv_text(scores).encode(errors="replace"))
    write_atomically(out / "report.tex", latex(scores).encode())
    write_atomically(out / "report.md", text.encode(errors="replace"))
    made = count(len(records), "record")
    say(f"{made} -> {out}/index.html; report.md, .csv, .tex and charts beside it")
    result("report", None, out=str(out / "index.html"), records=len(records))
    offline = [
        run for folder in dict.fromkeys(p.parent for p in paths) for run in unsent_runs(folder)
    ]
    if offline:
        say(
            f"W&B wrote {len(offline)} of these runs offline; to send them: wandb login, then wandb"
            f" sync {shlex.join(offline)}"
        )
    return story


def write_wandb_report(story: Story, to: Destination, out: Path, *, publish_now: bool) -> None:
    """Writes report_spec.json; publishes if that is asked for or there is an API key."""
    write_atomically(out / "report_spec.json", spec(story, to).encode())
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
    if publish_now or (logged_in() and not offline):
        say(f"W&B report: {publish(story, to, out)}")
        return
    say(
        f"{out}/index.html has the same content and needs no account; {out}/report_spec.json"
        " is the W&B report. Publish it, after `wandb login`, with the same command and --publish:"
        f"\n  {shlex.join(['python', *sys.orig_argv[1:], '--publish'])}"
    )


def refresh(documents: Sequence[Path], records_dir: Path, *, write: bool) -> int:
    """Rewrites the blocks of documents, or only reports which ones are outdated."""
    from hyperinit.inits.markdown import inits_markdown  # needs torch, unlike reports

    constant = {"inits": inits_markdown, "rooms": rooms_markdown, "rules": rules_markdown}
    constant["results"] = results_markdown

    outdated = []
    for path in documents:
        try:
            text = read_small(path).decode().replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        new = update_blocks(text, records_dir, str(path), constant)
        if new == text:
            continue
        outdated.append(path)
        if write:
            write_atomically(path, new.encode())
    for path in outdated:
        state = "updated" if write else "is outdated; run report.py --update on it"
        print(f"{shown_path(path)} {state}", file=sys.stderr)
        result("document", None, path=str(path), updated=write)
    return 1 if outdated and not write else 0


if __name__ == "__main__":
    sys.exit(main())
