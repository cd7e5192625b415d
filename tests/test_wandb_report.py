"""The W&B report: its specification without a server, and the real thing against a stub."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from conftest import smooth_image
from records import ladder
from wandb_stub import WandbStub

from hyperinit.app.report import main
from hyperinit.base.errors import InputError
from hyperinit.images.save import webp
from hyperinit.record.records import Record, append_record
from hyperinit.record.thumbnails import Thumbnails, folder_of
from hyperinit.report.wandb_report import Destination, Story, _log_run, spec
from hyperinit.score.score import score_groups

ERRORS = {
    "paper": {1.0: 0.8, 4.0: 0.08, 16.0: 0.008},
    "33": {1.0: 0.4, 4.0: 0.02, 16.0: 8e-4},
}
TO = Destination("me", "proj")

# wandb-workspaces and the W&B SDK use what other packages have deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No key, no server, nothing left of an earlier test in the SDK's process-wide state."""
    wandb = pytest.importorskip("wandb")
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    # publish sets these; here they are to be as before afterwards
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    yield
    wandb.teardown()


def made_up() -> list[Record]:
    inits = [("<b>\n", "33"), ("paper", "paper"), ("33", "33")]
    return [
        one
        for image in ("cat", "patio")
        for init, errors in inits
        for one in ladder(init, ERRORS[errors], image)
    ]


def story() -> Story:
    return Story.of(score_groups(made_up()))


def stored(path: Path, *, pictures: bool = True) -> Path:
    for i, one in enumerate(made_up()):
        append_record(path, one)
        if pictures:
            Thumbnails(folder_of(path)).add(
                one, *(webp(smooth_image(16, 3 * i + k)) for k in range(3))
            )
    return path


def test_the_specification_holds_run_sets_charts_and_tables_without_a_server():
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    content = json.loads(spec(story(), TO))
    assert (content["entity"], content["project"]) == ("me", "proj")
    blocks = content["spec"]["blocks"]
    (grid,) = (block for block in blocks if block["type"] == "panel-grid")
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    kinds = [panel["viewType"] for panel in panels]
    assert kinds == ["Run History Line Plot"] * 2 + ["Bar Chart", "Media Browser"]
    tables = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert tables[-1] == story().markdown and "<b>" not in "".join(tables)


def test_seconds_of_several_machines_are_not_compared_and_medians_have_their_unit(
    monkeypatch, tmp_path
):
    """The tables left these seconds out, the chart beside them did not."""
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    run = MagicMock()
    monkeypatch.setattr("wandb.init", lambda **_: run)
    for machines, timed in ((("one", "one"), True), (("one", "two"), False)):
        inits = zip(("33", "paper"), machines, strict=True)
        records = [r for n, m in inits for r in ladder(n, ERRORS[n], environment={"machine": m})]
        told = Story.of(score_groups(records))
        run.reset_mock()
        _log_run(told, told.scores[0], told.scores[0].inits[0], TO, tmp_path)
        logged = [call.args[0] for call in run.log.call_args_list]
        assert len(logged) == 4 and {"seconds" in point for point in logged} == {timed}
    seed = Story.of(score_groups(ladder("33", ERRORS["33"], track="seed")))
    assert "median seed epochs to each target" in spec(seed, TO)


def test_where_the_private_method_has_changed_the_tables_are_left(monkeypatch):
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    monkeypatch.setattr("hyperinit.report.wandb_report.build", lambda *_, **__: object())
    assert json.loads(spec(story(), TO))["spec"]["markdown"] == story().markdown


@pytest.mark.slow
def test_without_a_key_the_specification_is_written_and_the_command_to_publish_is_said(
    tmp_path, capsys
):
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    path = stored(tmp_path / "r.jsonl", pictures=False)
    out = tmp_path / "out"
    assert main([str(path), "-o", str(out), "--wandb-report", "me/proj"]) == 0
    assert json.loads((out / "report_spec.json").read_text())["spec"]["blocks"]
    assert "--publish" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([str(path), "-o", str(out), "--wandb-report", "me/proj", "--publish"])
    assert stopped.value.code == 2 and "wandb login" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["me", "me/", "../x/y", "a/b/c", "a b/c"])
def test_a_destination_is_an_entity_and_a_project(name):
    with pytest.raises(InputError, match="ENTITY/PROJECT"):
        Destination.parse(name)


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(InputError, match=r"pip install 'hyperinit\[report\]'"):
        spec(story(), TO)


@pytest.mark.long
def test_a_report_is_published_with_its_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    path = stored(tmp_path / "r.jsonl")
    out = tmp_path / "out"
    with WandbStub() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        assert main([str(path), "-o", str(out), "--wandb-report", "me/proj"]) == 0
        first = dict(server.runs)
        assert len(first) == 3 and server.reports[0]["displayName"]
        grids = [b for b in json.loads(server.reports[0]["spec"])["blocks"] if "metadata" in b]
        (wanted,) = grids[0]["metadata"]["runSets"][0]["filters"]["filters"]
        for run in first.values():
            config = {k: v["value"] for k, v in json.loads(run["config"]).items() if k != "_wandb"}
            assert config["group"] == wanted["value"] and run["exitcode"] == 0
            rows = [row for row in run["history"] if "mse" in row]
            assert [row["epochs"] for row in rows] == [0, 1, 4, 16]
            if config["init"] == "33":
                assert run["summary"]["epochs_to_0.0008"] == pytest.approx(16)
        assert sum("media/images/fits" in name for name in server.uploads) == 3 * 2 * 5
        assert f"{server.url}/me/proj/reports/Initial-weights" in capsys.readouterr().err
        # The same runs again, not new ones.
        assert main([str(path), "-o", str(out), "--wandb-report", "me/proj", "--publish"]) == 0
        assert set(server.runs) == set(first) and len(server.reports) == 2
