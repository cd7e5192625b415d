"""`hyperinit score` and `hyperinit inits`: tables on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hyperinit.base.arguments import add_manner
from hyperinit.base.results import results
from hyperinit.base.settings import Parser


def score_parser(prog: str) -> Parser:
    """The command line of `hyperinit score`."""
    parser = Parser(prog=prog, description="Prints the tables of record files as Markdown.")
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help="record files")
    parser.add_argument("--reference", default="33", help="init that ratios are to (default: 33)")
    parser.add_argument(
        *("--tune-on-test",),
        action="store_true",
        help="choose learning rates on the test images, where records have no tuning runs",
    )
    add_manner(parser)
    return parser


def score(argv: Sequence[str], prog: str = "hyperinit score") -> int:
    """Runs `hyperinit score`."""
    arguments = score_parser(prog).parse_args(argv)
    from hyperinit.record.records import read_records
    from hyperinit.report.tables import markdown, score_rows
    from hyperinit.score.score import score_groups

    records = read_records(arguments.records)
    scores = score_groups(records, arguments.reference, tune_on_test=arguments.tune_on_test)
    results("score", markdown(scores).rstrip("\n"), score_rows(scores))
    return 0


def inits_parser(prog: str) -> Parser:
    """The command line of `hyperinit inits`."""
    parser = Parser(
        prog=prog,
        description="Prints the inits that have a name: the 38 hand-designed rows of the seed"
        " experiment, and ours.",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON document")
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
