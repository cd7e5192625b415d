"""HEIC and AVIF: files of phones and browsers that Pillow reads only with something more."""

from __future__ import annotations

from PIL import features

from hyperinit.base.errors import InputError

START_BYTES = 64  # of a file are enough to know it

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def make_readable(start: bytes, name: str) -> None:
    """Arranges that Pillow opens a file, if it is one of these.

    pillow-heif is imported and registered when the first HEIC file is met, and not before.

    Args:
        start: The file's first `START_BYTES`.
        name: Of the file.

    Raises:
        InputError: what reads it is not installed; the line says what to install.
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
            import pillow_heif
        except (ImportError, OSError) as error:
            raise InputError(
                f"{name}: HEIC needs pillow-heif: pip install 'hyperinit[heic]'"
            ) from error
        pillow_heif.register_heif_opener(thumbnails=False)
