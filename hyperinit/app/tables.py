"""`hyperinit score` and `hyperinit inits`: tables on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hyperinit.base.arguments import Parser, add_manner
from hyperinit.base.results import results

FORMATS = ("markdown", "csv", "latex")


def score_parser(prog: str) -> Parser:
    """The command line of `hyperinit score`."""
    parser = Parser(prog=prog, description="Prints the tables of record files.")
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help="record files")
    parser.add_argument("--reference", metavar="INIT", help="reference of ratios (default: 33)")
    parser.add_argument(
        *("--tune-on-test",),
        action="store_true",
        help="choose learning rates on the test images if records have no tuning runs",
    )
    parser.add_argument(
        *("--format",),
        choices=FORMATS,
        default="markdown",
        help="format of the tables; all have 95 %% intervals (default: markdown)",
    )
    add_manner(parser)
    return parser


def score(argv: Sequence[str], prog: str = "hyperinit score") -> int:
    """Runs `hyperinit score`."""
    arguments = score_parser(prog).parse_args(argv)
    from hyperinit.publish.latex import latex
    from hyperinit.record.records import read_some_records
    from hyperinit.report.tables import csv_text, markdown, score_rows
    from hyperinit.score.beside import related_scores

    records = read_some_records(arguments.records)
    scores = related_scores(records, arguments.reference, tune_on_test=arguments.tune_on_test)
    written = {"markdown": markdown, "csv": csv_text, "latex": latex}[arguments.format]
    results("score", written(scores).rstrip("\n"), score_rows(scores))
    return 0


def inits_parser(prog: str) -> Parser:
    """The command line of `hyperinit inits`."""
    parser = Parser(
        prog=prog,
        description="Prints all inits by name: the 38 hand-designed rows of the seed experiment,"
        " and ours.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def inits(argv: Sequence[str], prog: str = "hyperinit inits") -> int:
    """Runs `hyperinit inits`."""
    arguments = inits_parser(prog).parse_args(argv)
    from hyperinit.bench.catalogue import inits_json, ours_markdown
    from hyperinit.inits.markdown import inits_markdown

    if arguments.json:
        print(json.dumps(inits_json(), indent=1))
    else:
        print(f"{inits_markdown()}\n{ours_markdown()}", end="")
    return 0
