"""One photograph, this project and the alternatives that users would pick -> a table.

    python benchmarks/peers.py                             96 x 96, SIREN 4 x 128: ten minutes
    python benchmarks/peers.py --image a.png b.png --size 224 --width 256 --depth 5
    python benchmarks/peers.py --peers ours paper evos     only these
    python benchmarks/peers.py --quick                     half a minute: does everything run?
    python benchmarks/peers.py --report                    runs nothing: record -> docs

It measures seconds and epochs to 30, 35, 40 and 44 dB, PSNR after 500, 1,000, 2,000 and 5,000
steps, and memory. Every peer has a separate process. They take turns of a second, so that a change
in the machine's load affects all alike. A fit with a declared end (ours) is measured as several
fits with different ends. A finished peer has a line in the record, and an interrupted run continues
with those that have none. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before any install

import torch
from torch import Tensor

from benchmarks.lines import append_line
from benchmarks.peer.measure import Task
from benchmarks.peer.report import CHART, DOCUMENTS, chart_png, update_document
from benchmarks.peer.run import (
    Job,
    Record,
    read_record,
    record_of,
    take_turns,
)
from benchmarks.peer.table import PEERS
from hyperinit.base.arguments import Parser
from hyperinit.base.errors import InputError, unknown_name
from hyperinit.base.files import write_atomically
from hyperinit.images.decode import load_image
from hyperinit.images.pixels import image_facts, square_crop

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "records" / "peers.jsonl"
CAT = "cat"  # of scikit-image
QUICK = {"size": 32, "width": 32, "depth": 2, "seconds_limit": 0.5, "most_steps": 500}


def _parser() -> Parser:
    parser = Parser(
        prog="peers.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--image", nargs="+", default=[CAT], metavar="FILE", help="photographs (scikit-image's cat)"
    )
    for name, value, text in (
        ("size", 96, "centre square of a photograph, in pixels"),
        ("width", 128, "units of the SIRENs' sine layers"),
        ("depth", 4, "sine layers of the SIRENs"),
        ("seed", 0, "seed of starts and of pixels"),
        ("threads", 1, "CPU threads of every peer"),
    ):
        add(f"--{name}", type=int, default=value, help=f"{text} ({value})")
    add(
        "--seconds-limit",
        type=float,
        default=20.0,
        help="seconds for a fit of a peer, on its own clock (20); 4 times that for the SIREN paper",
    )
    add("--peers", nargs="+", default=list(PEERS), metavar="NAME", help="all: " + ", ".join(PEERS))
    add("--slice-sec", type=float, default=1.0, help="seconds per turn (1)")
    add("--quick", action="store_true", help="tiny sizes, half a second per fit")
    add("--out", type=Path, help="record (benchmarks/records/peers.jsonl; with --quick runs/)")
    add("--report", action="store_true", help="run nothing; write the table and chart of docs/")
    add("--most-steps", type=int, default=5000, help=argparse.SUPPRESS)
    return parser


def load(source: str, size: int) -> Tensor:
    """The centre square of a photograph: (3, size, size) in [0, 1]."""
    if source != CAT:
        return square_crop(load_image(source), size)
    from skimage import data

    return square_crop(torch.from_numpy(data.cat()).permute(2, 0, 1) / 255, size)


def check_peers(names: Sequence[str]) -> None:
    """Checks before any work whether all peers can be run.

    Raises:
        InputError: there is no such peer, or its package is not installed.
    """
    for name in names:
        if name not in PEERS:
            raise unknown_name("peer", name, PEERS)
        module = PEERS[name].needs
        if module is not None and find_spec(module) is None:
            others = " ".join(other for other in names if PEERS[other].needs is None)
            raise InputError(
                f"peer {name} needs a package: pip install 'hyperinit[peers]', or leave it out with"
                f" --peers {others}"
            )


def key_of(arguments: argparse.Namespace, source: str, image: Tensor) -> Record:
    """The fields in which a line of the record must agree to belong to this run."""
    return {
        "image": image_facts(Path(source).name, image),
        "width": arguments.width,
        "depth": arguments.depth,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "limit_sec": arguments.seconds_limit,
        "most_steps": arguments.most_steps,
    }


def task_of(arguments: argparse.Namespace, image: Tensor) -> Task:
    """The task that every peer gets."""
    return Task(
        image,
        arguments.width,
        arguments.depth,
        arguments.seconds_limit,
        arguments.most_steps,
        arguments.seed,
    )


def run(arguments: argparse.Namespace) -> int:
    """Measures all peers that have no line in the record yet; 1 if one of them failed."""
    check_peers(arguments.peers)
    out, failures = arguments.out, 0
    for source in arguments.image:
        task = task_of(arguments, load(source, arguments.size))
        key = key_of(arguments, source, task.image)
        done = {r["peer"] for r in read_record(out) if all(r.get(k) == key[k] for k in key)}
        todo = [name for name in arguments.peers if name not in done]
        begin = time.monotonic()

        def say(text: str, source: str = source, begin: float = begin) -> None:
            took = f"{time.monotonic() - begin:.0f} s"
            print(f"{source}, {took}: {text}", file=sys.stderr, flush=True)

        def finished(name: str, reply: Record, key: Record = key, say: Any = say) -> None:
            append_line(out, record_of(name, key, reply))
            best = max((point[3] for point in reply["points"]), default=0.0)
            say(f"{name}: up to {best:.1f} dB")

        def failed(name: str, reason: str, say: Any = say) -> None:
            nonlocal failures
            failures += 1
            say(f"{name} failed: {reason}")

        if done:
            say(f"{len(done)} peers are in {out} already")
        jobs = [Job(name, task, arguments.threads) for name in todo]
        take_turns(jobs, arguments.slice_sec, finished, failed)
    return 1 if failures else 0


def report(record: Path) -> int:
    """Writes the tables into the documents, and the chart beside them."""
    records = read_record(record)
    for document in DOCUMENTS:
        path = ROOT / document
        text = path.read_text(encoding="utf-8")
        write_atomically(path, update_document(text, records, document).encode())
    if records:
        write_atomically(ROOT / CHART, chart_png(records))
    written = ", ".join([*DOCUMENTS, *([CHART] if records else [])])
    print(f"{len(records)} lines of {record} -> {written}", file=sys.stderr)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a peer failed, 2 for bad input."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.quick:
        vars(arguments).update(QUICK)
    if arguments.out is None:
        arguments.out = Path("runs") / "peers-quick.jsonl" if arguments.quick else RECORD
    try:
        return report(arguments.out) if arguments.report else run(arguments)
    except InputError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
