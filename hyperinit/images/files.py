"""A directory -> the names of its image files; and the plug-ins that some formats need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import features

from hyperinit.base.errors import InputError
from hyperinit.base.extras import need
from hyperinit.base.files import shown_path

# Pillow's name of a format -> its file suffixes. Other formats are refused even if Pillow knows
# them: some start an outside program (EPS), and most are not photographs.
IMAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),  # a JPEG with more pictures behind it, as some cameras write to .jpg
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),  # with the extra "heic"
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
}


IMAGE_SUFFIXES = {suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes}


MAX_FILE_BYTES = 2**30  # more than MAX_PIXELS take in any format


def image_files(
    directory: str | os.PathLike[str], *, follow_links: bool = False
) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of all image files below a directory, sorted, and sub-folders that cannot be read.

    Image files are recognised by their suffix; hidden files are skipped.

    Args:
        directory: The top of the tree.
        follow_links: Whether links to directories are followed. Each directory is visited once,
            however many links lead to it. If False, such links are skipped.

    Returns:
        Names relative to the directory, with "/"; and (sub-folder, reason) of each failure.

    Raises:
        InputError: the directory is missing, is a file or cannot be read.
    """
    top = Path(directory)
    if not top.is_dir():
        what = "is a file" if top.exists() else "no such directory"
        raise InputError(f"{shown_path(top)}: {what}; expected a directory of images")
    names: list[str] = []
    skipped: list[tuple[str, str]] = []

    def failed(error: OSError) -> None:
        path, reason = Path(error.filename), error.strerror or "cannot be read"
        if path == top:
            raise InputError(f"{shown_path(top)}: {reason}") from error
        skipped.append((path.relative_to(top).as_posix(), reason))

    seen: set[str] = set()
    ahead = [top]
    while ahead:  # real directories before linked ones: a file gets its shortest name
        start = ahead.pop(0)
        if os.path.realpath(start) in seen:
            continue
        for parent, children, files in os.walk(start, onerror=failed):
            if os.path.realpath(parent) in seen:  # a link led to a directory around it
                children.clear()
                continue
            seen.add(os.path.realpath(parent))
            shown = sorted(child for child in children if not child.startswith("."))
            links = [child for child in shown if os.path.islink(os.path.join(parent, child))]
            children[:] = [child for child in shown if child not in links]
            ahead += [Path(parent) / link for link in links if follow_links]
            for file in files:
                if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                    names.append((Path(parent) / file).relative_to(top).as_posix())
    return sorted(names), skipped


# To recognise HEIC and AVIF, the files of phones and browsers.
START_BYTES = 64  # enough of a file to recognise it

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def make_readable(start: bytes, name: str) -> None:
    """Makes Pillow able to open a file that is HEIC or AVIF; does nothing for other files.

    pillow-heif is imported and registered only when the first HEIC file is met.

    Args:
        start: The file's first `START_BYTES`.
        name: What error messages call it.

    Raises:
        InputError: the package that reads it is not installed; the message says what to install.
    """
    if start[4:8] != b"ftyp":
        return
    end = min(int.from_bytes(start[:4], "big"), len(start))
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF:
        if not features.check("avif"):
            raise InputError(
                f"{name}: AVIF needs Pillow 11.3 or newer with libavif: pip install -U pillow"
            )
    elif brands & _HEIC:
        try:
            pillow_heif: Any = need("heic")
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        pillow_heif.register_heif_opener(thumbnails=False)
