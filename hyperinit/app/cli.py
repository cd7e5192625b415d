"""The `hyperinit` command: images -> inits, images -> fitted SIRENs, and how good inits are.

A command is imported only when it is used, so that `hyperinit --help` and others need not load
torch.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hyperinit.base.errors import InputError, machine_errors
from hyperinit.base.terminal import forgiving_output, stoppable, visible


@dataclass(frozen=True)
class Command:
    """A subcommand of `hyperinit`.

    Attributes:
        help: One line.
        place: MODULE:FUNCTION that runs it: (argv, prog=...) -> exit code.
    """

    help: str
    place: str


COMMANDS = {
    "generate": Command(
        "initial weights for the SIRENs of images, from any init",
        "hyperinit.app.generate:main",
    ),
    "fit": Command(
        "fit a SIREN to an image, or to every image of a directory, from any init",
        "hyperinit.app.fit:main",
    ),
    "render": Command("draw a SIREN at any size", "hyperinit.app.generate:render_main"),
    "export": Command(
        "write a SIREN for another program: PyTorch, ONNX, GLSL, JAX, fewer bits",
        "hyperinit.exchange.command:main",
    ),
    "demo": Command(
        "a local page: drop an image, watch its fits race (needs 'hyperinit[demo]')",
        "hyperinit.demo.command:main",
    ),
    "gallery": Command(
        "a page of a fitted directory: each image, its fit and its error",
        "hyperinit.demo.command:gallery",
    ),
    "inits": Command("print all inits by name, as a table", "hyperinit.app.tables:inits"),
    "meta-train": Command(
        "train a hypernetwork on images, and compare its inits", "hyperinit.app.meta_train:main"
    ),
    "benchmark": Command(
        "measure inits: the epochs and seconds to a target error",
        "hyperinit.app.benchmark:main",
    ),
    "score": Command("print the tables of record files", "hyperinit.app.tables:score"),
    "report": Command("a page, tables and charts from record files", "hyperinit.app.report:main"),
    "submit": Command(
        "check records and pack them for a pull request", "hyperinit.publish.command:submit"
    ),
    "leaderboard": Command(
        "one page of many submissions, with the rules", "hyperinit.publish.command:leaderboard"
    ),
    "doctor": Command("check what will not work on this machine", "hyperinit.shell.doctor:main"),
    "completion": Command(
        "a script that completes commands and options in bash or zsh",
        "hyperinit.shell.completion:main",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0: success; 1: some images of a directory have no result, or a check failed; 130, 143, 129:
    stopped by Ctrl-C, SIGTERM or SIGHUP.
    Bad input, and a failed fit, give one line and SystemExit with code 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with forgiving_output():
        try:
            with machine_errors():
                return stoppable(lambda: run(arguments), owns_process=argv is None)
        except InputError as error:
            return _refuse(str(error))


def run(arguments: list[str]) -> int:
    """Imports the command and runs it."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        print(help_text())
        return 0
    if name == "--version":
        from hyperinit import __version__

        print(f"hyperinit {__version__}")
        return 0
    if name not in COMMANDS:
        return _refuse(_unknown(name))
    module, _, function = COMMANDS[name].place.partition(":")
    command = getattr(importlib.import_module(module), function)
    code: int = command(arguments[1:], prog=f"hyperinit {name}")
    return code


def help_text() -> str:
    """The text of `hyperinit --help`."""
    lines = [f"  {name:<13}{command.help}" for name, command in COMMANDS.items()]
    about = (__doc__ or "").partition("\n")[0]
    return (
        f"usage: hyperinit COMMAND ...\n\n{about}\n\ncommands:\n" + "\n".join(lines) + "\n\n"
        "`hyperinit COMMAND --help` explains a command; `hyperinit --version` prints the version."
    )


def _unknown(name: str) -> str:
    if not name:
        return f"give a command: {', '.join(COMMANDS)}; see --help"
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    what = "argument" if name.startswith("-") else "command"
    return f"unknown {what} {name!r}{hint}; known: {', '.join(COMMANDS)}"


def _refuse(reason: str) -> int:
    line = visible(" ".join(reason.splitlines()))
    print(f"hyperinit: error: {line}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
