"""The page: what a newcomer reads first, and that nothing in it can reach or run anything else."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import smooth_image
from records import SETTINGS, ladder, record

from hyperinit.app.report import main
from hyperinit.base.errors import InputError
from hyperinit.images.save import webp
from hyperinit.record.records import Record, append_record
from hyperinit.record.thumbnails import Thumbnails, folder_of
from hyperinit.report import page as report_page
from hyperinit.report.headline import headline
from hyperinit.report.names import shown
from hyperinit.score.score import GroupScore, score_groups

ERRORS = {
    "paper": {1.0: 0.8, 4.0: 0.08, 16.0: 0.008},
    "33": {1.0: 0.4, 4.0: 0.02, 16.0: 8e-4},
    "hyper": {1.0: 0.04, 4.0: 0.002, 16.0: 8e-5},
    "never": {1.0: 0.9, 4.0: 0.5, 16.0: inf},
}
HOSTILE = (
    "../../outside",
    "<script>alert(1)</script>",
    "x" * 300,
    "two\nlines",
    "a\"b'c & $\\frac | `",
    "\u202eüñí 漢字 \U0001f600",
    "${body}",
)


def made_up(images: tuple[str, ...] = ("cat", "patio")) -> list[Record]:
    found = []
    for i, image in enumerate(images):
        for init, errors in ERRORS.items():
            own = {budget: error * 0.9**i for budget, error in errors.items()}
            found += ladder(init, own, image)
            found += ladder(init, own, f"tuning {image}", track="tuned-lr")
    return found


def read_groups(records: list[Record]) -> list[GroupScore]:
    return report_page.with_tests(score_groups(records))


def page(records: list[Record], **options: Any) -> str:
    return report_page.page(score_groups(records), **options)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data + " "


def check_self_contained(html: str) -> None:
    elements = Elements(html)
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert not {"link", "iframe", "object", "base", "form-action"} & {t for t, _ in elements.found}
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/webp;base64,", "#")), (tag, name, value)
    assert "url(" not in html and "@import" not in html
    (policy,) = (a["content"] for _, a in elements.found if "Security" in str(a.get("http-equiv")))
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_the_first_lines_say_which_by_how_much_how_sure_and_on_what():
    (group,) = read_groups(made_up())
    sentences = headline(group)
    assert sentences[0].startswith("hyper is the fastest of 4 inits: it reaches MSE 0.0008")
    assert "33, the runner-up" in sentences[0]
    assert re.search(r"0\.\d+ times the epochs of 33 \(95 % interval over images", sentences[1])
    assert "2 test images" in sentences[-1] and "224 x 224 pixels" in sentences[-1]
    assert "chosen on 2 other images" in sentences[-1]
    html = page(made_up())
    assert html.index(sentences[0]) < html.index("<svg")


def test_a_difference_that_may_be_none_is_not_sold_as_one():
    records = [
        *ladder("a", {1.0: 0.1, 4.0: 8e-4}, "cat"),
        *ladder("33", {1.0: 0.1, 4.0: 1e-4}, "cat"),
        *ladder("a", {1.0: 0.1, 4.0: 1e-4}, "patio"),
        *ladder("33", {1.0: 0.1, 4.0: 8e-4}, "patio"),
    ]
    assert "a tie cannot be excluded" in " ".join(headline(read_groups(records)[0]))


def test_what_no_init_reaches_is_said():
    hard = [one for one in made_up() if one.init == "never"]
    assert headline(read_groups(hard)[0])[0].startswith("No init reaches even MSE 0.08")
    easier = [one for one in made_up() if one.init == "paper"]
    assert "No init gets most fits to 0.0008" in " ".join(headline(read_groups(easier)[0]))
    check_self_contained(page(hard))


def test_the_first_lines_about_one_init_or_none_that_got_there_are_true():
    one = [*ladder("33", {1.0: 0.5, 2.0: 0.07}, "cat"), *ladder("33", {1.0: 0.5}, "patio")]
    first, *_ = headline(read_groups([*one, *ladder("33", {1.0: 0.5}, "dog")])[0])
    assert first.startswith("No init gets most of its fits to") and first.endswith("1 of 3 do.")
    none = [*ladder("33", {1.0: inf}, "cat"), *ladder("22", {1.0: inf}, "cat")]
    first, *_ = headline(read_groups(none)[0])
    assert first.endswith("Every init has a fit whose largest budget diverged.")


def test_pairs_that_the_smallest_budget_solves_are_not_called_unsolved():
    """The first lines said that both inits reach the target on three of eight pairs alone."""
    records = []
    for k in range(8):
        first = 0.5 if k < 3 else 5e-4
        records += ladder("33", {1.0: first, 2.0: 5e-4}, f"image {k}")
        records += ladder("22", {1.0: 0.8 * first, 2.0: 4e-4}, f"image {k}")
    (group,) = read_groups(records)
    assert "over the 3 of 8 pairs on which both costs are exact." in headline(group)[1]
    rows = [row for row in re.split("<tr>", page(records)) if "MSE 0.0005" in row]
    assert sum("<td>&lt;= 1</td>" in row for row in rows) == 5


def test_the_first_lines_say_how_far_each_init_was_run():
    """The longest budget of any was named beside the error of another, and that of the first."""
    short = ladder("short", {1.0: 0.3, 4.0: 0.2}, "cat")
    long = ladder("long", {1.0: 0.9, 16.0: 0.8}, "cat")
    first, *_ = headline(read_groups([*short, *long])[0])
    assert "The lowest error after 4 epochs is 0.2, from short." in first
    solved = ladder("short", {1.0: 0.3, 4.0: 0.01}, "cat")
    said = " ".join(headline(read_groups([*solved, *long])[0]))
    assert "No init gets most fits to 0.0008 within the 16 epochs that were run." in said


def test_an_init_without_tuning_runs_is_named_beside_those_with_some():
    records = [one for one in made_up() if one.init != "paper" or not one.is_tuning]
    (group,) = read_groups(records)
    assert headline(group)[-1].endswith("on 2 other images, of paper as the records have them.")
    records += ladder("paper", {1.0: 0.5}, "cat", lr=1e-3)
    (group,) = score_groups(records, tune_on_test=True)
    assert headline(group)[-1].endswith("on 2 other images, of paper chosen on these very images.")


def test_settings_that_some_records_leave_out_have_their_value_on_the_page():
    """One rate for all layers is not in a record; the page said that all rise with depth."""
    rising = {**SETTINGS, "rising_rates": True, "engine": "compiled"}
    units = {**SETTINGS, "rising_units": True}
    made = (("33", rising), ("paper", units))
    records = [record(n, version=2, track="open", settings=own) for n, own in made]
    shown_settings = report_page._settings(read_groups(records)[0])["rows"]
    rows = {name: value for name, value, _ in shown_settings}
    assert rows["rising_rates"] == "false, true" and rows["rising_units"] == "false, true"
    assert rows["engine"] == "compiled, not said" and "warmup_steps" not in rows


def test_a_single_image_gives_no_interval():
    assert "a single photograph" in " ".join(headline(read_groups(made_up(("cat",)))[0]))


def test_every_group_is_on_the_page_with_its_curves_and_images():
    seed = {"settings": {**SETTINGS, "batch_pixels": 8192}, "track": "seed"}
    frozen = {"track": "frozen", "settings": {**SETTINGS, "frozen_layers": [0]}}
    frozen["changes"] = {"frozen_layers": [0]}
    records = [
        *(record("33", mse=1e-3, **seed), record("paper", mse=1e-2, **seed)),
        *ladder("33", ERRORS["33"], track="frozen"),
        *ladder("33", ERRORS["paper"], **frozen),
        *made_up(),
    ]
    elements = Elements(page(records))
    titles = re.findall(r"(\w+) track: 224 x 224 pixels", elements.text)
    assert titles == ["tuned", "seed", "frozen"]
    assert "Frozen layers" in elements.text and "cat.png" in elements.text
    charts = [a for tag, a in elements.found if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == 3 * 4


def test_the_window_s_title_ends_with_a_word():
    html = page(made_up())
    (said,) = re.findall(r"<title>hyperinit report: (.*?)…</title>", html)
    sentence = headline(read_groups(made_up())[0])[0]
    assert sentence.startswith(f"{said} ") and 90 < len(said) < 120


@pytest.mark.slow
def test_titles_name_the_version_and_notes_stand_in_their_section(tmp_path):
    untuned = [record("33", lr=1e-3, version=2), record("33", lr=1e-4, version=2)]
    path = tmp_path / "r.jsonl"
    for one in [*made_up(), *untuned]:
        append_record(path, one)
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    check_self_contained(html)
    first, second = html.split("<h2>tuned track: ")[1:3]
    assert "protocol version 2" in first[:120] and "protocol version 1" in second[:120]
    assert "There are no tuning runs of 33" in first and "no tuning runs" not in second
    assert "no tuning runs of 33" in (tmp_path / "out" / "report.md").read_text()


def test_the_same_records_give_the_same_page():
    assert page(made_up()) == page(made_up())


def test_no_test_runs_are_no_page():
    with pytest.raises(InputError, match="no records of test runs"):
        page([one for one in made_up() if one.is_tuning])


def with_pictures(path: Path, records: list[Record]) -> Path:
    thumbnails = Thumbnails(folder_of(path))
    for i, one in enumerate(records):
        append_record(path, one)
        if not one.is_tuning:
            picture = smooth_image(32, i)
            thumbnails.add(one, *map(webp, (picture, 1 - picture, picture / 2)))
    return path


def test_pictures_are_shown_with_words_and_left_out_where_there_are_none(tmp_path):
    path = with_pictures(tmp_path / "r.jsonl", made_up(("cat",)))
    found = Elements(page(made_up(), thumbnails=Thumbnails(folder_of(path))))
    pictures = [attributes for tag, attributes in found.found if tag == "img"]
    assert len(pictures) == 1 + 4 * 4  # the image; 4 inits at step 0 and after 1, 4, 16 epochs
    assert all(attributes["alt"] for attributes in pictures)
    buttons = [a for t, a in found.found if t == "button" and a.get("class") == "zoom"]
    assert len(buttons) == len(pictures)  # by mouse and by keyboard


def test_seconds_of_fits_side_by_side_are_not_compared_with_those_of_others():
    alone = record("33", mse=0.01)
    beside = record("22", mse=0.01, environment={**alone.environment, "workers": 2})
    assert "do not compare seconds" not in page([alone])
    assert "do not compare seconds" in page([alone, beside])


@pytest.mark.slow
def test_hostile_names_are_escaped_and_stay_inside_the_directory(tmp_path):
    records = []
    for name in HOSTILE:
        for init in (name, "33"):
            facts = {"environment": {"processor": name, "torch": name}}
            records += ladder(init, ERRORS["33"], name, **facts)
    (tmp_path / "in").mkdir()
    path = with_pictures(tmp_path / "in" / "<img src=x>.jsonl", records)
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"in", "out"}
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    check_self_contained(html)
    text = " ".join(Elements(html).text.split())
    for name in HOSTILE:
        assert shown(name) in text
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown
    assert all("| two lines |" in line for line in markdown.splitlines() if "two" in line[:8])


def test_a_page_of_many_pictures_stays_below_5_mb(tmp_path):
    images = tuple(f"image {i}" for i in range(40))
    path = tmp_path / "r.jsonl"
    thumbnails = Thumbnails(folder_of(path))
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))  # hardest to pack
    records = made_up(images)
    first = next(one for one in records if not one.is_tuning)
    thumbnails.add(first, *[webp(noise)] * 3)
    (content,) = {file.read_bytes() for file in folder_of(path).iterdir()}
    thumbnails.image = thumbnails.start = thumbnails.end = lambda record: content  # type: ignore[method-assign]
    html = page(records, thumbnails=thumbnails)
    assert len(html.encode()) < 5_000_000 and "Further pictures are left out" in html


@pytest.mark.long
def test_a_browser_shows_the_page_zooms_and_asks_for_nothing(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    browser = browser or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    path = with_pictures(tmp_path / "r.jsonl", made_up())
    assert main([str(path), "-o", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    # A second page frames the report as a person would use it: a click, then what the DOM has.
    # The report's own policy allows no script but its own, so the driver's is added to it.
    driver = (
        "<script>addEventListener('load', () => {"
        "document.querySelectorAll('button.zoom')[2].click();"
        "const d = document.querySelector('dialog');"
        "document.title = [d.open, d.querySelectorAll('img').length,"
        " performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length,"
        " document.documentElement.scrollWidth <= innerWidth].join(' ');"
        "});</script>"
    )
    driven = re.sub(r"script-src &#39;.*?&#39;", "script-src 'unsafe-inline'", html)
    assert driven != html
    driven = driven.replace("</body>", driver + "</body>")
    (tmp_path / "driven.html").write_text(driven, encoding="utf-8")
    plain = tmp_path / "out" / "index.html"

    def dump(page: Path) -> subprocess.CompletedProcess[str]:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [browser, *flags, profile, "--enable-logging=stderr", "--dump-dom", str(page)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    title = re.search(r"<title>(.*?)</title>", dump(tmp_path / "driven.html").stdout)
    assert title is not None and title[1] == "true 2 0 true"
    shown = dump(plain)
    assert "hyper is the fastest" in shown.stdout
    # The policy would complain here if it stopped the page's own script or style.
    assert "Content Security Policy" not in shown.stderr
