"""Pictures of fits -> small WebP files in a folder beside the records, for pages about them.

A file's name is a digest of what it shows, so no name of an image or init gets into a path. They
are made off the clock and are not part of a record: everything can be scored without them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from hyperinit.base.errors import InputError
from hyperinit.base.files import make_directory, write_atomically
from hyperinit.record.records import Record, beside

SIDE = 128  # pixels at most: about 4 kB a picture
SHOWN_EPOCHS = (0.25, 1.0, 4.0, 16.0)  # budgets whose ends are kept, if a ladder has more


def folder_of(records: str | Path) -> Path:
    """The folder of a record file's thumbnails, beside it."""
    return beside(records, ".thumbnails")


class Thumbnails:
    """The thumbnails of one record file, or (only to read) of several.

    Raises:
        InputError: when writing, if the folder cannot be created or written to.
    """

    def __init__(self, folders: Path | Iterable[Path]) -> None:
        self.folders = [folders] if isinstance(folders, Path) else list(folders)

    def add(self, record: Record, image: bytes, start: bytes, end: bytes) -> None:
        """Stores the image, the start and the end of one fit, each as a WebP file."""
        make_directory(self.folders[0])
        for name, picture in ((_image, image), (_start, start)):
            if not self._path(name(record)).exists():
                write_atomically(self._path(name(record)), picture)
        # Written last: if it exists, the others do.
        write_atomically(self._path(_end(record)), end)

    def image(self, record: Record) -> bytes | None:
        """The image of a record."""
        return self._read(_image(record))

    def start(self, record: Record) -> bytes | None:
        """The SIREN's rendering at step 0."""
        return self._read(_start(record))

    def end(self, record: Record) -> bytes | None:
        """The SIREN's rendering at the end."""
        return self._read(_end(record))

    def _path(self, name: str) -> Path:
        return self.folders[0] / name

    def _read(self, name: str) -> bytes | None:
        for folder in self.folders:
            path = folder / name
            try:
                if path.is_file():
                    return path.read_bytes()
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        return None


def _name(*what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32] + ".webp"


def _image(record: Record) -> str:
    return _name("image", record.image_hash)


def _start(record: Record) -> str:
    """One start for all rates and budgets of an init."""
    sizes = [record.settings.get(name) for name in ("width", "depth")]
    return _name("start", record.label, record.init_facts, sizes, record.image_hash, record.seed)


def _end(record: Record) -> str:
    return _name("end", *record.trial)
