"""`hyperinit submit` and `hyperinit leaderboard`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hyperinit.base.arguments import Parser, add_manner
from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.base.outputs import check_directory, is_same_file
from hyperinit.base.results import count, result
from hyperinit.base.terminal import say
from hyperinit.record.records import beside, is_submission

SUBMIT = """Checks records and packs them into one file for a pull request.

    hyperinit benchmark my_init.py:make --images DIR
    hyperinit submit runs/benchmark-tuned.jsonl --by "Ada Lovelace"

The plan beside the records says what was declared. The submission is refused in one line, and
nothing is written, if a declared fit is missing, an init was tested on an image that it was trained
on, fits were made on several machines, or a number is not finite. The same records give the same
file.
"""
LEADERBOARD = """Makes a page from submissions and record files, with the rules beside the results.

    hyperinit leaderboard submissions/*.jsonl -o leaderboard

Submissions are checked again. If a trial occurs twice, that of the first file counts. Only what was
measured alike is compared, and seconds only within one machine.
"""


def submit_parser(prog: str) -> Parser:
    """The command line of `hyperinit submit`."""
    parser = _parser(prog, SUBMIT)
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help="record files")
    by = "who measured them: a name, optionally with an address; it will be public"
    parser.add_argument("--by", required=True, metavar="NAME", help=by)
    parser.add_argument(
        *("-o", "--out"),
        type=Path,
        metavar="FILE",
        help="the file to write (default: the first of RECORDS, with .submission.jsonl)",
    )
    add_manner(parser)
    return parser


def submit(argv: Sequence[str], prog: str = "hyperinit submit") -> int:
    """Runs `hyperinit submit`."""
    arguments = submit_parser(prog).parse_args(argv)
    records: list[Path] = arguments.records
    for path in records:
        if not path.is_file():
            raise InputError(f"{shown_path(path)}: no such record file")
    out: Path = arguments.out or beside(records[0], ".submission.jsonl")
    if out.suffix != ".jsonl":
        raise InputError(f"{shown_path(out)}: a submission's name ends in .jsonl")
    for path in records:
        if is_same_file(path, out):
            raise InputError(f"{shown_path(out)}: is one of the inputs; choose another --out")
    if out.exists() and not is_submission(out):
        raise InputError(
            f"{shown_path(out)}: is there already and is no submission: choose another --out"
        )
    check_directory(out.parent)
    from hyperinit.base.files import write_atomically
    from hyperinit.publish.submission import submission_of

    found = submission_of(records, arguments.by)
    write_atomically(out, found.content)
    about = found.about
    images = count(len(about["images"]), "image")
    say(
        f"{count(about['records'], 'record')} of {', '.join(map(shown_path, about['inits']))} on"
        f" {images}, measured on {about['places'][0]}: {shown_path(out)} is complete. Open a pull"
        " request with it and the init's code."
    )
    counts = {"records": about["records"], "images": len(about["images"])}
    result("submission", None, out=str(out), **counts)
    return 0


def leaderboard_parser(prog: str) -> Parser:
    """The command line of `hyperinit leaderboard`."""
    parser = _parser(prog, LEADERBOARD)
    what = "submissions, or plain record files"
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help=what)
    parser.add_argument(
        *("-o", "--out"),
        type=Path,
        default=Path("leaderboard"),
        help="directory of the page (default: leaderboard)",
    )
    parser.add_argument("--reference", metavar="INIT", help="reference of ratios (default: 33)")
    add_manner(parser)
    return parser


def leaderboard(argv: Sequence[str], prog: str = "hyperinit leaderboard") -> int:
    """Runs `hyperinit leaderboard`."""
    arguments = leaderboard_parser(prog).parse_args(argv)
    from hyperinit.publish.leaderboard import write_leaderboard

    out: Path = arguments.out
    check_directory(out, may_be_made=True)
    records = write_leaderboard(arguments.records, out, arguments.reference)
    say(f"{count(records, 'record')} -> {shown_path(out)}/index.html, leaderboard.md and .csv")
    result("report", None, out=str(out / "index.html"), records=records)
    return 0


def _parser(prog: str, description: str) -> Parser:
    return Parser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
