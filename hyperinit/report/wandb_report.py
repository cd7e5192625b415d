"""Records -> a W&B report with the content of the page: a run per init, charts, a table.

A W&B report shows runs, so publishing makes one W&B run per init and group. Its id is derived from
the records, so publishing again replaces it. Without a server there is only the report's
specification, as JSON.

The public report API belongs to wandb-workspaces, the extra `report`. The specification comes from
one of its private methods, because there is no public way to see a report without a server. If that
fails, the file has the report's Markdown instead.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from hyperinit.base.errors import InputError
from hyperinit.base.extras import has_key, need
from hyperinit.base.terminal import defused
from hyperinit.record.protocol import TARGETS
from hyperinit.record.thumbnails import SHOWN_EPOCHS, Thumbnails
from hyperinit.report.headline import headline, shown_workload
from hyperinit.report.names import markdown_text, shown
from hyperinit.report.tables import markdown
from hyperinit.score.score import GroupScore, InitScore

TITLE = "Initial weights of SIRENs compared"  # also in the URL, where "?" would end the path
SHOWN_PICTURES = 6  # images of a group in the media panel


@dataclass(frozen=True)
class Destination:
    """A W&B project.

    Raises:
        InputError: the text is not of the form ENTITY/PROJECT.
    """

    entity: str
    project: str

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Parses ENTITY/PROJECT."""
        if not re.fullmatch(r"[\w.-]{1,128}/[\w.-]{1,128}", text, re.ASCII):
            raise InputError(f"--wandb-report: {text!r} is not of the form ENTITY/PROJECT")
        return cls(*text.split("/"))


@dataclass(frozen=True)
class Story:
    """The content of a report.

    Attributes:
        scores: Scores of the groups that have test runs, in the order of sections.
        markdown: The tables.
        thumbnails: Pictures of the fits.
    """

    scores: Sequence[GroupScore]
    markdown: str
    thumbnails: Thumbnails | None = None

    @classmethod
    def of(cls, scores: Sequence[GroupScore], thumbnails: Thumbnails | None = None) -> Story:
        """Builds it from all scores; raises what `markdown` raises."""
        ordered = sorted(scores, key=lambda s: s.group.workload.order)
        return cls([s for s in ordered if s.inits], markdown(scores), thumbnails)


def logged_in() -> bool:
    """Whether there is a key for the configured W&B server."""
    import wandb

    return has_key(wandb.setup().settings.base_url)


def spec(story: Story, to: Destination) -> str:
    """The report's specification as JSON, without a server.

    Raises:
        InputError: wandb-workspaces is missing, or there are no test runs.
    """
    try:
        # A run set with an entity would look up its project on the server.
        model = build(story, to, runset_entity="")._to_model()
        content = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    except InputError:
        raise
    except Exception as error:  # a private method, which may change in any way
        content = {"markdown": story.markdown, "reason": f"no specification: {error}"[:300]}
    found = {"entity": to.entity, "project": to.project, "title": TITLE, "spec": content}
    return json.dumps(found, indent=1) + "\n"


def publish(story: Story, to: Destination, out: Path) -> str:
    """Creates the runs and the report on the W&B server; returns the report's URL.

    Args:
        out: Existing directory; W&B writes below its `wandb/`.

    Raises:
        InputError: there is no login, wandb-workspaces is missing, the server refuses or does not
            answer, or there are no test runs.
    """
    _api()
    groups = story.scores
    if not logged_in():
        raise InputError("publishing needs an API key: run `wandb login` or set WANDB_API_KEY")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ["WANDB_DATA_DIR"] = str(out.absolute() / "wandb")
    os.environ["WANDB_CACHE_DIR"] = str(out.absolute() / "wandb" / "cache")
    try:
        for group in groups:
            for init in group.fastest_first:
                _log_run(story, group, init, to, out)
        report = build(story, to, runset_entity=to.entity)
        report.save()
        return str(report.url)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"W&B: the report could not be published ({reason})") from error


def build(story: Story, to: Destination, *, runset_entity: str) -> Any:
    """The report, not yet saved."""
    wr = _api()
    if not story.scores:
        raise InputError("no records of test runs")
    best, *details = headline(story.scores[0])
    best = defused(best)
    blocks = [wr.H1(text=best), wr.MarkdownBlock(text="\n\n".join(map(markdown_text, details)))]
    for group in story.scores:
        runs = wr.Runset(
            entity=runset_entity,
            project=to.project,
            name=defused(f"{shown(group.track.name)} track"),
            filters=f"Config('group') == '{_digest(group)}'",
        )
        full = {"w": 24, "h": 8}
        half = [wr.Layout(x=x, y=0, w=12, h=8) for x in (0, 12)]
        by_target = [wr.SummaryMetric(_key(target)) for target in TARGETS]
        panels = [
            wr.LinePlot(
                title=f"MSE against {x}", x=x, y=["mse"], log_y=True, title_x=x, layout=place
            )
            for x, place in zip(("epochs", "seconds"), half, strict=True)
        ]
        panels += [
            wr.BarPlot(
                title=f"median {group.track.unit} to each target (none: not reached)",
                metrics=by_target,
                layout=wr.Layout(x=0, y=8, **full),
            ),
            wr.MediaBrowser(
                title="image, step 0, and after some budgets",
                media_keys=["fits"],
                num_columns=4,
                layout=wr.Layout(x=0, y=16, **full),
            ),
        ]
        blocks += [
            wr.H2(text=defused(f"{shown(group.track.name)} track: {shown_workload(group)}")),
            wr.PanelGrid(runsets=[runs], panels=panels),
        ]
    blocks += [wr.H2(text="Tables"), wr.MarkdownBlock(text=story.markdown)]
    return wr.Report(
        entity=to.entity, project=to.project, title=TITLE, description=best, blocks=blocks
    )


def _api() -> Any:
    need("report")
    import wandb_workspaces.reports.v2 as wr

    return wr


def _key(target: float) -> str:
    return f"epochs_to_{target:g}"


def _digest(group: GroupScore) -> str:
    """Identifies a group of records by its content."""
    trials = sorted(json.dumps(record.trial) for record in group.group.tests)
    return hashlib.sha256("\n".join(trials).encode()).hexdigest()[:16]


def _log_run(story: Story, group: GroupScore, init: InitScore, to: Destination, out: Path) -> None:
    """Logs one init of one group as a W&B run: its curve, its costs and its pictures."""
    import wandb

    digest = _digest(group)
    label = defused(shown(init.init))
    run = wandb.init(
        entity=to.entity,
        project=to.project,
        id=hashlib.sha256(f"{digest} {init.init}".encode()).hexdigest()[:16],
        name=f"{label} ({shown(group.track.name)})",
        group=f"report {digest}",
        config={
            "init": label,
            "track": shown(group.track.name),
            "workload": shown_workload(group),
            "group": digest,
        },
        dir=str(out),
        mode="online",
        settings=wandb.Settings(
            console="off", silent=True, disable_code=True, disable_git=True, init_timeout=15
        ),
        reinit="create_new",
    )
    run.define_metric("epochs")
    run.define_metric("mse", step_metric="epochs", summary="min")
    epochs, seconds = init.mse_curve("epochs"), init.mse_curve("seconds")
    for (at_epochs, mse), (at_seconds, _) in zip(epochs, seconds, strict=True):
        if isfinite(mse):
            timed = {"seconds": at_seconds} if group.has_seconds else {}
            run.log({"epochs": at_epochs, **timed, "mse": mse})
    pictures = _pictures(story, init)
    if pictures:
        run.log({"fits": pictures})
    for target, cost in ((target, found.epochs) for target, found in init.targets.items()):
        if isfinite(cost.median):
            run.summary[_key(target)] = cost.median
        run.summary[f"share_at_{target:g}"] = cost.hits / cost.n
    run.finish()


def _pictures(story: Story, init: InitScore) -> list[Any]:
    """Pictures of the first few images: the image, step 0 and some budgets."""
    import wandb
    from PIL import Image

    if story.thumbnails is None:
        return []
    found: list[Any] = []
    images: set[str] = set()
    for (image_hash, _), ladder in init.ladders.items():
        runs = [run for run in ladder.values() if story.thumbnails.end(run)]
        if not runs or image_hash in images or len(images) == SHOWN_PICTURES:
            continue
        images.add(image_hash)
        runs = [run for run in runs if run.budget_epochs in SHOWN_EPOCHS] or runs[:4]
        contents = [
            ("image", story.thumbnails.image(runs[0])),
            ("step 0", story.thumbnails.start(runs[0])),
            *((f"{run.budget_epochs:g} epochs", story.thumbnails.end(run)) for run in runs),
        ]
        for what, content in contents:
            if content is not None:
                caption = f"{defused(shown(runs[0].image))}: {what}"
                found.append(wandb.Image(Image.open(io.BytesIO(content)), caption=caption))
    return found
