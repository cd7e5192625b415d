"""`hyperinit completion`: all parsers -> a script for completion in a shell."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperinit.app.cli import COMMANDS, Command
from hyperinit.base.arguments import Parser, parser_of
from hyperinit.base.errors import unknown_name
from hyperinit.base.extras import need

# Command -> the beginnings of its command line that have different options; () for all others.
VARIANTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "meta-train": (("--method", "hypernetwork"), ("--method", "reptile")),
}


def build(prog: str) -> Parser:
    """The command line."""
    parser = Parser(
        prog=prog,
        description="Prints a script that completes commands and options in a shell"
        " (needs 'hyperinit[completion]').",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="bash  hyperinit completion bash >"
        " ~/.local/share/bash-completion/completions/hyperinit"
        "\nzsh   hyperinit completion zsh > DIR/_hyperinit, for a DIR in $fpath",
    )
    parser.add_argument("shell", metavar="SHELL", help="bash, zsh or another that shtab knows")
    return parser


def main(argv: Sequence[str], prog: str = "hyperinit completion") -> int:
    """Runs `hyperinit completion`."""
    arguments = build(prog).parse_args(argv)
    shtab: Any = need("completion")
    if arguments.shell not in shtab.SUPPORTED_SHELLS:
        raise unknown_name("shell", arguments.shell, shtab.SUPPORTED_SHELLS)
    print(shtab.complete(whole_parser(), shell=arguments.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """All commands with all their options as one parser, which knows where files are expected."""
    parser = argparse.ArgumentParser(prog="hyperinit")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.help, add_help=False)
        for variant in VARIANTS.get(name, ((),)):
            _add_options(own, _parser_of(command, name, variant))
    return parser


def _parser_of(command: Command, name: str, argv: Sequence[str]) -> Parser:
    module, _, function = command.place.partition(":")
    run = getattr(importlib.import_module(module), function)
    return parser_of(lambda: run(list(argv), prog=f"hyperinit {name}"))


def _add_options(to: argparse.ArgumentParser, parser: Parser) -> None:
    """Adds the options of a parser, unless they are there already."""
    known = set(to._option_string_actions)
    for action in parser._actions:
        if known & set(action.option_strings):
            continue
        if action.type is Path:
            action.complete = need("completion").FILE  # type: ignore[attr-defined]
        to._add_action(action)
