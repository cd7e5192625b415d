"""The rooms of the package, in the order of the data flow, and which room may import which.

A room is a subpackage. It imports only rooms above it in this table, so there are no cycles;
tests/test_architecture.py checks every import statement against the table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """One subpackage.

    Attributes:
        what: Its content in one line.
        may_import: Rooms whose modules it may import.
    """

    what: str
    may_import: tuple[str, ...] = ()


ROOMS: dict[str, Room] = {
    "base": Room("errors, settings, files, locks, clock, terminal: nothing about SIRENs"),
    "spread": Room("work over processes and machines: torch.distributed, Ray", ("base",)),
    "record": Room("the protocol, the records of fits, their thumbnails", ("base",)),
    "score": Room("records -> costs, ratios, intervals", ("base", "record")),
    "report": Room("scores -> tables, charts, the page, W&B", ("base", "record", "score")),
    "images": Room("files <-> images (3, H, W) in [0, 1] and signals, coordinates", ("base",)),
    "data": Room(
        "shards, Parquet files, arrays, Hugging Face sets -> images by index", ("base", "images")
    ),
    "photos": Room(
        "data sets and directories -> train and held-out lists", ("base", "images", "data")
    ),
    "siren": Room("the network, its parameters, their files", ("base", "images")),
    "inits": Room(
        "hand-designed rules, and the `Start` that every init returns", ("base", "images", "siren")
    ),
    "stepping": Room(
        "one step of a fit: its pixels, the gradient, the update and the learning rate",
        ("base", "images", "siren"),
    ),
    "fitting": Room(
        "a start + an image -> a fitted SIREN",
        ("base", "spread", "record", "images", "siren", "inits", "stepping"),
    ),
    "hypernet": Room(
        "the hypernetwork and other trained inits, pretrained ones included",
        ("base", "images", "siren", "inits"),
    ),
    "sets": Room(
        "a set of images -> a fitted SIREN for each, from starts that may improve on the way",
        ("base", "spread", "images", "data", "photos", "siren", "inits", "fitting", "hypernet"),
    ),
    "exchange": Room(
        "SIRENs of other programs: reading, writing, initialising in place",
        ("base", "images", "siren", "inits", "hypernet"),
    ),
    "loggers": Room("TensorBoard and MLflow by name, besides a run's own log", ("base",)),
    "learn": Room(
        "images -> a trained init: losses, the outer loop, its log",
        (
            *("base", "spread", "record", "images", "data", "photos", "siren", "inits"),
            *("stepping", "fitting", "hypernet", "loggers"),
        ),
    ),
    "bench": Room(
        "inits x images x budgets -> records",
        (
            *("base", "spread", "record", "score", "images", "photos"),
            *("siren", "inits", "stepping", "fitting", "hypernet", "exchange"),
        ),
    ),
    "publish": Room(
        "records -> files for others: a submission, the leaderboard and its rules, LaTeX",
        ("base", "record", "score", "report", "bench"),
    ),
    "demo": Room(
        "web pages: a live race of fits, and a gallery of finished ones",
        (
            *("base", "record", "report", "images", "data", "photos", "siren", "inits"),
            *("stepping", "fitting", "hypernet", "bench"),
        ),
    ),
    "app": Room(
        "the commands",
        (
            *("base", "spread", "record", "score", "report", "images", "photos", "siren"),
            *("inits", "fitting", "hypernet", "sets", "exchange", "loggers", "learn", "bench"),
            *("publish", "demo"),
        ),
    ),
    "shell": Room("shell completion, and a check whether commands will work here", ("base", "app")),
}

# Rooms that can be imported without torch, which reading records and writing reports do not need.
TORCH_FREE = ("base", "record", "score", "report")


def rooms_markdown() -> str:
    """The rooms as a Mermaid flowchart and a table, in Markdown; ends in a newline."""
    lines = ["```mermaid", "flowchart LR"]
    for name, room in ROOMS.items():
        # An arrow is left out if a path along others implies it.
        implied = {lower for other in room.may_import for lower in ROOMS[other].may_import}
        lines += [f"    {name} --> {other}" for other in room.may_import if other not in implied]
    lines += ["```", "", "| room | content | may import |", "|---|---|---|"]
    for name, room in ROOMS.items():
        lines.append(f"| `{name}` | {room.what} | {', '.join(room.may_import) or '-'} |")
    return "\n".join(lines) + "\n"
