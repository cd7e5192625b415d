"""Shows one photograph at several stages of its fits, from the pictures kept with records.

    python scripts/first_picture.py baselines/records/first-screen.jsonl -o docs/first-picture.png

One row per init (the page has `--inits steps-224 waves identity 33 paper`), and columns for
the start and each budget, with the PSNR below each picture. The records are made with
`hyperinit benchmark --thumbnails`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import write_atomically
from hyperinit.base.outputs import IMAGE, check_output
from hyperinit.images.decode import decode_image
from hyperinit.record.records import Record, read_some_records
from hyperinit.record.thumbnails import Thumbnails, folder_of
from hyperinit.report.charts import png


def panels(records: Sequence[Record], thumbnails: Thumbnails) -> list[tuple[str, bytes, str]]:
    """(title, WebP, caption) of one init: its start, then the end of each budget, ascending."""
    runs = sorted(records, key=lambda record: record.budget_epochs)
    found = [("step 0", thumbnails.start(runs[0]), f"{runs[0].start.psnr:.1f} dB")]
    for run in runs:
        title = f"{run.budget_epochs:g} epoch{'' if run.budget_epochs == 1 else 's'}"
        found.append((title, thumbnails.end(run), f"{run.end.psnr:.1f} dB"))
    return [(title, picture, text) for title, picture, text in found if picture is not None]


def draw(
    records: Sequence[Record],
    thumbnails: Thumbnails,
    image: str,
    inits: Sequence[str] | None = None,
) -> bytes:
    """The picture, as a PNG file.

    Args:
        records: Records of any images and inits.
        thumbnails: Their pictures.
        image: The image to show.
        inits: The inits to show, in this order; None: all.

    Raises:
        InputError: no fit of this image has pictures, an init has no fit of it, or a picture is
            damaged.
    """
    from matplotlib.figure import Figure

    own: dict[str, list[Record]] = {}
    for record in records:
        if record.image == image and record.seed == 0 and not record.is_tuning:
            own.setdefault(record.label, []).append(record)
    absent = [label for label in inits or () if label not in own]
    if own and absent:
        raise unknown_name("init", absent[0], own)
    rows = {label: panels(own[label], thumbnails) for label in inits or own if label in own}
    rows = {label: row for label, row in rows.items() if len(row) > 1}
    if not rows:
        raise InputError(f"no pictures of fits of {image!r}; run the benchmark with --thumbnails")
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(1.75 * columns + 0.6, 2.0 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for i, (axes, (label, row)) in enumerate(zip(grid, rows.items(), strict=True)):
        for axis, (title, picture, caption) in zip(axes, row, strict=False):
            shown = decode_image(picture, f"the picture of {label}, {title}")
            axis.imshow(shown.permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(caption, fontsize=9)
            if i == 0:
                axis.set_title(title, fontsize=10)
        axes[0].set_ylabel(label, fontsize=11)
    return png(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = Parser(
        prog="first_picture.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("records", type=Path, metavar="RECORDS", help="record file")
    parser.add_argument("--image", help="name of the image in the records (default: the first)")
    parser.add_argument(
        "--inits", nargs="+", metavar="INIT", help="inits in this order (default: all, as recorded)"
    )
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    arguments = parser.parse_args(argv)
    try:
        check_output(arguments.out, [".png"], IMAGE, inputs=[arguments.records])
        records = read_some_records([arguments.records])
        image = arguments.image or next((r.image for r in records if not r.is_tuning), "")
        thumbnails = Thumbnails(folder_of(arguments.records))
        content = draw(records, thumbnails, image, arguments.inits)
        write_atomically(arguments.out, content)
    except InputError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
