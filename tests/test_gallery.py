"""The gallery of a fitted directory: what is on it, and that no name on it can do anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import smooth_image
from test_data import write_shards
from test_page import Elements

from hyperinit import load_params, save_image, save_params
from hyperinit.app.cli import main

HOSTILE = (
    "<script>alert(1)<",
    '" onerror="alert(1)',
    "a'b&${x}",
    "\u202eüñí 漢字",
    "two\nlines",
)
FIT = ["--width", "16", "--depth", "2", "--budget-epochs", "1", "--batch-pixels", "64"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory of fitted images in "out", of those in "photos"; names are hostile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for seed, name in enumerate((*HOSTILE, "sub/plain")):
        save_image(smooth_image(16, seed), tmp_path / "photos" / f"{name}.png")
    command = ["fit", "photos", "-o", "out", "--init", "33", *FIT]
    assert main(command) == 0
    return tmp_path


def page(*arguments: str) -> Elements:
    assert main(["gallery", "out", "--images", "photos", *arguments]) == 0
    html = Path("out/gallery.html").read_text(encoding="utf-8")
    found = Elements(html)
    assert {tag for tag, _ in found.found}.isdisjoint({"script", "link", "iframe", "object", "a"})
    for tag, attributes in found.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert (attributes.get("src") or "data:image/webp;").startswith("data:image/webp;")
    (policy,) = (a["content"] for _, a in found.found if "Security" in str(a.get("http-equiv")))
    assert policy.startswith("default-src 'none'; img-src data:;") and "script" not in policy
    assert "url(" not in html and "@import" not in html
    return found


def test_every_image_is_there_with_its_fit_its_error_and_its_psnr_the_worst_first(place, capsys):
    found = page()
    assert capsys.readouterr().out.endswith("out/gallery.html: 6 images\n")
    pictures = [a for tag, a in found.found if tag == "img"]
    assert len(pictures) == 3 * 6 and all(a["loading"] == "lazy" and a["alt"] for a in pictures)
    stored = sorted(load_params(path)[1]["psnr"] for path in Path("out").glob("*.safetensors"))
    printed = [float(text) for text in re.findall(r": ([\d.]+) dB", found.text)]
    assert printed == [round(value, 2) for value in stored]
    assert "sub/plain.png" in found.text and "<script>alert(1)<.png" in found.text
    assert "two lines.png" in found.text
    # The same directory gives the same page.
    before = Path("out/gallery.html").read_bytes()
    page()
    assert Path("out/gallery.html").read_bytes() == before


def test_what_is_no_longer_there_or_changed_or_damaged_is_said(place):
    save_image(smooth_image(16, 50), place / "photos" / "sub" / "plain.png")
    (place / "photos" / "a'b&${x}.png").unlink()
    damaged = next(path for path in Path("out").iterdir() if "lines" in path.name)
    content = bytearray(damaged.read_bytes())
    content[-2] ^= 1
    damaged.write_bytes(content)
    found = page()
    assert "it is no longer the image that was fitted" in found.text
    assert "no such file" in found.text and "checksum does not match" in found.text
    pictures = [a["alt"] for tag, a in found.found if tag == "img"]
    assert len([alt for alt in pictures if alt.endswith(", fit")]) == 5 and len(pictures) == 5 + 6


def test_a_name_that_leads_out_of_the_directory_is_not_followed(place):
    params, info = load_params(next(Path("out").glob("*plain*")))
    save_image(smooth_image(16, 5), place / "outside.png")
    facts = {**info["images"][0], "name": "../outside.png"}
    save_params("out/x.safetensors", params, **{**info, "images": [facts]})
    assert "No original: no such file in photos" in page().text


def test_a_set_of_any_kind_has_a_gallery(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "photos")
    assert main(["fit", "photos/*.tar", "-o", "out", "--init", "33", *FIT, "--limit", "3"]) == 0
    assert main(["gallery", "out", "--images", "photos/*.tar"]) == 0
    found = Elements(Path("out/gallery.html").read_text(encoding="utf-8"))
    assert len([tag for tag, _ in found.found if tag == "img"]) == 3 * 3
    assert "s-00.tar/001.png" in found.text


def test_a_large_set_shows_the_worst_and_says_how_many_are_left_out(place, capsys):
    assert main(["gallery", "out", "--limit", "2", "-o", "two.html"]) == 0
    assert "two.html: 2 images, 4 left out" in capsys.readouterr().out
    found = Elements(Path("two.html").read_text(encoding="utf-8"))
    assert "The 2 worst are shown; 4 are left out." in found.text
    assert len([a for tag, a in found.found if tag == "img"]) == 2  # no originals without --images


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such directory"),
        (["empty"], "empty: no results of"),
        (["empty", "--images", "nowhere"], "--images nowhere: no such directory"),
        (["empty", "--limit", "0"], "--limit must be at least 1"),
        (["empty", "-o", "a.txt"], "a.txt: must end in .html"),
        (["empty", "-o", "none/a.html"], "none: no such directory"),
    ],
)
def test_what_stops_the_command_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main(["gallery", *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.long
def test_a_browser_shows_the_page_and_asks_for_nothing(place):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    browser = browser or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    page()
    html = Path("out/gallery.html").read_text(encoding="utf-8")
    # The page's own policy allows no script, so the driver's is added to it.
    driver = (
        "<script>addEventListener('load', async () => {"
        "const all = [...document.images];"
        "all.forEach(image => image.loading = 'eager');"
        "await Promise.all(all.map(image => image.decode()));"
        "document.title = [all.filter(image => image.naturalWidth === 16).length,"
        " performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length,"
        " document.documentElement.scrollWidth <= innerWidth].join(' ');"
        "});</script>"
    )
    driven = html.replace("img-src data:;", "img-src data:; script-src 'unsafe-inline';")
    Path("driven.html").write_text(driven.replace("</body>", driver + "</body>"), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    flags += [f"--user-data-dir={place / 'profile'}", "--enable-logging=stderr"]
    flags += ["--virtual-time-budget=10000", "--dump-dom"]
    command = [browser, *flags]
    done = subprocess.run(
        [*command, str(place / "driven.html")], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None and title[1] == "18 0 true", done.stderr[-500:]
    shown = subprocess.run(
        [*command, str(place / "out" / "gallery.html")], capture_output=True, text=True, timeout=120
    )
    assert "sub/plain.png" in shown.stdout and "Content Security Policy" not in shown.stderr
