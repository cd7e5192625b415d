"""Completion in shells: every command and option is offered, files where files are wanted."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from functools import cache

import pytest

from hyperinit.app.cli import COMMANDS, main
from hyperinit.shell.completion import VARIANTS

pytest.importorskip("shtab", reason="the extra `completion` is not installed")


@cache
def options() -> dict[str, set[str]]:
    """Command -> its options, as its help names them: found in another way than completion does."""
    import contextlib
    import io
    import re

    found: dict[str, set[str]] = {}
    for name in COMMANDS:
        found[name] = set()
        for variant in VARIANTS.get(name, ((),)):
            text = io.StringIO()
            with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
                module, _, function = COMMANDS[name].place.partition(":")
                run = getattr(importlib.import_module(module), function)
                run([*variant, "--help"], prog=f"hyperinit {name}")
            declared = re.findall(
                r"^  (?:-\w(?: \w+)?, )?(--[\w-]+)", text.getvalue(), re.MULTILINE
            )
            found[name] |= set(declared)
    return found


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> str:
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("completion") / "hyperinit.bash"
    path.write_text(text.getvalue())
    return str(path)


def completed(script: str, *words: str) -> set[str]:
    """What bash offers behind a command line whose last word is begun."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    line = " ".join(f"'{word}'" for word in words)
    code = f"""
source {script}
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p hyperinit | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([bash, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {line.strip() for line in done.stdout.splitlines()}


def test_bash_offers_every_command(script):
    assert completed(script, "hyperinit", "") >= set(COMMANDS)
    assert completed(script, "hyperinit", "re") == {"render", "report"}


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_offers_every_option_of_a_command(script, name):
    wanted = options()[name]
    assert wanted >= {"--help"} and completed(script, "hyperinit", name, "--") >= wanted


def test_both_methods_of_training_are_in_it(script):
    offered = completed(script, "hyperinit", "meta-train", "--")
    assert {"--method", "--encoder-size", "--read-numbers"} <= offered


def test_files_are_offered_where_files_are_wanted(script, tmp_path, monkeypatch):
    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert "photo.png" in completed(script, "hyperinit", "fit", "pho")


def test_zsh_has_them_too(capsys):
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#compdef hyperinit")
    for name, wanted in options().items():
        assert name in text and all(option in text for option in wanted)
    with pytest.raises(SystemExit):
        main(["completion", "ksh"])
    assert "unknown shell 'ksh'" in capsys.readouterr().err
