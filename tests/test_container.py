"""The Dockerfile, which no test can build: what can be read off it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from test_readme import PARSERS, blocks

from hyperinit.base.settings import tomllib

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
GUIDE = ROOT / "docs" / "guides" / "first-init.md"


def of_docker(text: str) -> list[str]:
    """The lines that start a container or build one."""
    lines = (line.strip("# ") for line in text.splitlines())
    return [line for line in lines if line.startswith(("docker ", "podman "))]


def instructions() -> list[tuple[str, str]]:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines]


def test_it_runs_the_installed_command_as_a_user_without_rights():
    found = instructions()
    stages = [i for i, (name, _) in enumerate(found) if name == "FROM"]
    last = dict(found[stages[-1] :])
    assert last["USER"] not in ("root", "0")
    names = [name for name, _ in found]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert last["ENTRYPOINT"] == f'["{next(iter(project["scripts"]))}"]'
    # What is installed is the wheel, as in the gate: a checkout's top-level packages stay out.
    assert "pip install" in last["RUN"] and "/wheels/*.whl" in last["RUN"]
    assert not any(value.startswith(". ") for name, value in found[stages[-1] :] if name == "COPY")


def test_the_image_is_a_standard_one_of_a_python_that_is_supported_and_no_host_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least = int(project["requires-python"].removeprefix(">=3."))
    for name, value in instructions():
        if name == "FROM":
            version = re.match(r"python:3\.(\d+)-slim\b", value)
            assert version and int(version[1]) >= least
        assert "://" not in value


def test_what_the_wheel_is_made_of_is_not_left_out_of_the_build():
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert not {"hyperinit", "pyproject.toml", "README.md", "LICENSE"} & set(left_out)


def test_what_is_copied_exists_and_later_stages_take_what_earlier_ones_made():
    made = ""
    for name, value in instructions():
        if name == "COPY":
            *options, source, _ = value.split()
            if "--from=build" in options:
                assert f"--wheel-dir {source} " in made
            else:
                assert (ROOT / source).exists(), source
        made += f" {value} " if name == "RUN" else ""


def test_the_guide_shows_the_lines_of_the_file_and_their_commands_exist():
    shown = of_docker(DOCKERFILE.read_text(encoding="utf-8"))
    assert shown == of_docker("\n".join(blocks(GUIDE, "bash"))) and len(shown) == 2
    words = shlex.split(shown[1])
    name = shlex.split(shown[0])[3]  # docker build -t NAME .
    command, *arguments = words[words.index(name) + 1 :]
    PARSERS[f"hyperinit {command}"]().parse_args(arguments)


def test_extras_that_are_named_exist_and_arguments_are_declared_where_they_are_used():
    text = DOCKERFILE.read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for found in re.findall(r"\[([\w,]+)\]", text) for extra in found.split(",")}
    assert named and named <= set(project["optional-dependencies"])
    declared: set[str] = set()
    for name, value in instructions():
        if name == "FROM":
            declared = set()  # an ARG ends with its stage
        elif name == "ARG":
            declared.add(value)
        else:
            used = set(re.findall(r"\$\{?([A-Z_]+)", value))
            assert used <= declared, (name, used - declared)
    for name in re.findall(r"--build-arg (\w+)=", text):
        assert f"ARG {name}\n" in text, name
