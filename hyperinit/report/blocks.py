"""A document -> the same document with its generated blocks updated from records."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from hyperinit.base.errors import InputError
from hyperinit.record.records import Record, read_records
from hyperinit.report.tables import (
    comparison_table,
    errors_table,
    markdown,
    protocol_markdown,
    read_training,
    rivals_table,
)
from hyperinit.score.beside import USUAL_REFERENCE, related_scores

_KINDS = ("records", "comparison", "errors", "rivals")


def update_blocks(  # more than 60 lines: half of them describe the blocks
    text: str,
    records_dir: str | Path,
    source: str,
    constant: Mapping[str, Callable[[], str]] | None = None,
) -> str:
    """A document with its generated blocks updated from committed records.

    `<!-- records: NAME ... -->` to `<!-- /records -->` holds the tables of the files
    `NAME.jsonl`, with `, ratios to INIT` after the names if that is not 33;
    `<!-- comparison: NAME -->` the short table that ends a meta-training run,
    `<!-- errors: NAME ... -->` only the errors of every init after every budget,
    `<!-- rivals: NAME ... | NAME ... | TABLE -->` the tuned track and another protocol side by
    side, with the training costs in `TABLE.csv`, and `<!-- protocol -->` the protocol.

    Args:
        text: The document.
        records_dir: Directory of the record files.
        source: What error messages call the document.
        constant: Further kinds of blocks that do not depend on records: kind -> its body.

    Raises:
        InputError: there is no block, a block does not end, or a record file is missing or
            unusable.
    """

    constant = {"protocol": protocol_markdown, **(constant or {})}
    kinds = "|".join([*_KINDS, *constant])

    def named(files: list[str]) -> list[Record]:
        if not files:
            raise InputError(f"{source}: a block names no record file")
        return read_records([Path(records_dir) / f"{name}.jsonl" for name in files])

    def generated(block: re.Match[str]) -> str:
        if block["kind"] in constant:
            body = constant[block["kind"]]()
        else:
            files, _, reference = (block["names"] or "").partition(", ratios to ")
            asked = reference.strip() or None
            if block["kind"] == "rivals":
                parts = [part.split() for part in files.split("|")]
                if len(parts) != 3 or len(parts[2]) != 1:
                    raise InputError(f"{source}: a rivals block is NAME ... | NAME ... | TABLE")
                training = read_training(Path(records_dir) / f"{parts[2][0]}.csv")
                tuned, published = named(parts[0]), named(parts[1])
                body = rivals_table(tuned, published, training, asked or USUAL_REFERENCE)
            elif block["kind"] == "records":
                body = markdown(related_scores(named(files.split()), asked))
            elif block["kind"] == "errors":
                body = errors_table(related_scores(named(files.split()), asked))
            else:
                body = comparison_table(named(files.split()))
        return f"{block['open']}{body}{block['close']}"

    opened = len(re.findall(rf"^<!-- (?:{kinds})\b", text, re.MULTILINE))
    whole = (
        rf"(?P<open>^<!-- (?P<kind>{kinds})(?::(?P<names>[^>]*?))? -->\n)"
        r"(?P<body>.*?)"
        r"(?P<close>^<!-- /(?P=kind) -->$)"
    )
    new, count = re.subn(whole, generated, text, flags=re.DOTALL | re.MULTILINE)
    if count == 0 or count != opened:
        raise InputError(f"{source}: {opened} generated blocks begin, but only {count} end")
    return new
