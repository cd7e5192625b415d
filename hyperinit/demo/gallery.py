"""The results of `hyperinit fit SET` -> one HTML file: each image beside its fit and its error.

The file needs no network, script or other file. Its Content-Security-Policy forbids all of these,
so even a name that slipped through unescaped could do nothing.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path, write_atomically
from hyperinit.base.results import count
from hyperinit.base.terminal import progress
from hyperinit.data.source import Source
from hyperinit.images.errors import MOST_ERROR, error_map
from hyperinit.images.pixels import MAX_PIXELS, centre_crop, image_hash
from hyperinit.images.save import webp
from hyperinit.report.names import shown, templates
from hyperinit.siren.network import render
from hyperinit.siren.store import PARAMS_KIND, file_kind, load_siren, read_info

PICTURE_SIDE = 256  # pixels at most


@dataclass(frozen=True)
class Fitted:
    """One result of a directory, from its file's facts.

    Attributes:
        path: The SIREN's file.
        name: The image's name below its directory.
        height, width: Size in pixels, as it was fitted.
        sha256: Hash of the image as it was fitted.
        psnr: In dB on [0, 1].
        init: The init of the fit.
    """

    path: Path
    name: str
    height: int
    width: int
    sha256: str
    psnr: float
    init: str


def write_gallery(results: Path, images: Source | None, out: Path, limit: int) -> tuple[int, int]:
    """Writes the page of a directory of results.

    Args:
        results: The output directory of `hyperinit fit SET -o`.
        images: The SET; None: the page has neither originals nor errors.
        out: The file to write.
        limit: Show at most this many results, the worst ones.

    Returns:
        How many results are on the page, and how many are not.

    Raises:
        InputError: there is no result, or the file cannot be written.
    """
    found, unusable = fitted(results)
    views: list[dict[str, Any]] = []
    chosen = sorted(found, key=lambda one: one.psnr)[:limit]
    wanted = {one.name for one in chosen}
    names = enumerate(images.names if images is not None else ())
    numbers = {name: number for number, name in names if name in wanted}
    for one in progress(chosen, desc="drawing", leave=False):
        try:
            views.append(_view(one, images, numbers.get(one.name)))
        except InputError as error:
            found.remove(one)
            unusable.append((one.path.name, _without(error, one.path)))
    write_atomically(out, _page(results, found, unusable, views).encode(errors="replace"))
    return len(views), len(found) + len(unusable) - len(views)


def fitted(directory: Path) -> tuple[list[Fitted], list[tuple[str, str]]]:
    """The results in a directory, and (file, reason) of those that cannot be used.

    Raises:
        InputError: the directory does not exist, or has no result.
    """
    if not directory.is_dir():
        raise InputError(f"{shown_path(directory)}: no such directory of fitted SIRENs")
    found, unusable = [], []
    paths = sorted(directory.glob("*.safetensors"))
    for path in progress(paths, desc="reading", leave=False):
        try:
            if file_kind(path) != PARAMS_KIND:
                raise InputError("not a SIREN of ours")
            found.append(_fitted(path, read_info(path, PARAMS_KIND)))
        except InputError as error:
            unusable.append((path.name, _without(error, path)))
    if not found:
        raise InputError(
            f"{shown_path(directory)}: no results of `hyperinit fit DIR -o {shown_path(directory)}`"
        )
    return found, unusable


def _without(error: InputError, path: Path) -> str:
    """An error's text without the file's name."""
    return str(error).removeprefix(f"{shown_path(path)}: ")


def _fitted(path: Path, info: dict[str, Any]) -> Fitted:
    """The facts of a file that are shown; `read_info` has checked their types."""
    images = info.get("images") or [{}]
    if len(images) > 1:
        raise InputError(f"holds {len(images)} SIRENs, not one")
    facts = images[0]
    psnr, height, width = info.get("psnr"), facts.get("height"), facts.get("width")
    if not isinstance(psnr, (int, float)) or not math.isfinite(psnr) or not height or not width:
        raise InputError("does not state its image and its PSNR")
    if height * width > MAX_PIXELS:
        raise InputError(f"is of {height} x {width} pixels, over the limit of {MAX_PIXELS}")
    name, init = facts.get("name", path.stem), str(info.get("init", "?"))
    return Fitted(path, name, height, width, facts.get("sha256", ""), float(psnr), init)


def _view(one: Fitted, images: Source | None, number: int | None) -> dict[str, Any]:
    """The values of a result for the page."""
    view: dict[str, Any] = {
        "name": shown(one.name),
        "psnr": f"{one.psnr:.2f} dB",
        "size": f"{one.height} x {one.width}",
        "how": f"from {shown(one.init)}",
        "note": "",
        "original": "",
        "error": "",
    }
    picture = render(load_siren(one.path)[0], one.height, one.width)
    view["fit"] = _url(picture)
    if images is None:
        return view
    try:
        original = _original(one, images, number)
    except InputError as error:
        view["note"] = f"No original: {error}."
    else:
        view |= {"original": _url(original), "error": _url(error_map(original, picture))}
    return view


def _original(one: Fitted, images: Source, number: int | None) -> Tensor:
    """The image as it was fitted.

    Raises:
        InputError: it is missing, or has changed since.
    """
    if number is None:  # never follow the name to any other file
        raise InputError(f"no such file in {shown_path(images.title)}")
    image = images.read(number)
    if tuple(image.shape[-2:]) != (one.height, one.width) or image_hash(image) != one.sha256:
        image = centre_crop(image, one.height, one.width)
    if image_hash(image) != one.sha256:
        raise InputError("it is no longer the image that was fitted")
    return image


def _page(
    directory: Path,
    found: Sequence[Fitted],
    unusable: Sequence[tuple[str, str]],
    views: Sequence[dict[str, Any]],
) -> str:
    values = sorted(one.psnr for one in found)
    if not values:
        raise InputError(f"{shown_path(directory)}: no result in it can be read")
    summary = (
        f"{count(len(found), 'image')}; PSNR {values[0]:.2f} to {values[-1]:.2f} dB,"
        f" median {median(values):.2f} dB."
    )
    notes = []
    if len(views) < len(found):
        notes.append(f"The {len(views)} worst are shown; {len(found) - len(views)} are left out.")
    notes += [f"Left out: {shown(name)} ({shown(reason)})" for name, reason in unusable[:10]]
    html = (
        templates("hyperinit.demo")
        .get_template("gallery.html.j2")
        .render(
            title=f"Fitted SIRENs: {shown(directory.resolve().name)}",
            summary=summary,
            legend="The worst first. Error maps are black where a fit is right and white where it"
            f" is off by {MOST_ERROR:.0%} of the range of colours or more.",
            notes=notes,
            shown=views,
        )
    )
    return html.strip() + "\n"


def _url(image: Tensor) -> str:
    content = base64.b64encode(webp(image, PICTURE_SIDE)).decode()
    return f"data:image/webp;base64,{content}"
