"""The Dockerfile, which no test can build: what can be read off it."""

from __future__ import annotations

import re
from pathlib import Path

from hyperinit.base.settings import tomllib

ROOT = Path(__file__).parent.parent


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
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
