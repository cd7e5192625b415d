"""Pictures of fits -> small WebP files in a folder beside the records, for pages about them.

A file is named by a digest of what it shows, so no name of an image or init gets into a path. They
are made off the clock and are no part of a record: without them everything can still be scored.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hyperinit.errors import InputError
from hyperinit.protocol import Record
from hyperinit.score import TUNING
from hyperinit.store import make_directory, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from hyperinit.trial import Trial

SIDE = 128  # pixels at most: about 4 kB a picture
SHOWN_EPOCHS = (1.0, 4.0, 16.0)  # budgets whose ends are kept, where a ladder has more


def folder_of(records: str | Path) -> Path:
    """Where the thumbnails of a record file are: beside it."""
    return Path(records).with_suffix(".thumbnails")


class Thumbnails:
    """The thumbnails of one record file, or, to read, of several.

    Raises:
        InputError: when writing: the folder cannot be created or written to.
    """

    def __init__(self, folders: Path | Iterable[Path]) -> None:
        self.folders = [folders] if isinstance(folders, Path) else list(folders)

    def add(self, record: Record, image: Tensor, start: Tensor, end: Tensor) -> None:
        """Stores what one fit is of, began with and ended with; images (3, H, W) in [0, 1]."""
        make_directory(self.folders[0])
        for name, picture in ((_image, image), (_start, start)):
            if not self._path(name(record)).exists():
                write_atomically(self._path(name(record)), webp(picture))
        # The last one to be written: where it is there, the others are.
        write_atomically(self._path(_end(record)), webp(end))

    def wanted(self, trial: Trial) -> bool:
        """Whether a benchmark keeps the pictures of a trial: one seed, few budgets."""
        shown = trial.track == "seed" or trial.budget_epochs in SHOWN_EPOCHS
        return shown and trial.seed == 0 and not trial.track.endswith(TUNING)

    def image(self, record: Record) -> bytes | None:
        """The image that a record is of."""
        return self._read(_image(record))

    def start(self, record: Record) -> bytes | None:
        """What the SIREN showed at step 0."""
        return self._read(_start(record))

    def end(self, record: Record) -> bytes | None:
        """What it showed at the end."""
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


def webp(image: Tensor, side: int = SIDE) -> bytes:
    """An image (3, H, W) in [0, 1] as WebP, at most so many pixels a side; NaN is black."""
    from PIL import Image

    from hyperinit.images import resize, to_uint8

    image = image.detach().float().nan_to_num().clamp(0, 1)
    height, width = image.shape[-2:]
    scale = min(1.0, side / max(height, width))
    small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    out = io.BytesIO()
    pixels = to_uint8(small).permute(1, 2, 0).cpu().contiguous().numpy()
    Image.fromarray(pixels).save(out, format="WEBP", quality=85)
    return out.getvalue()


def _name(*what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32] + ".webp"


def _image(record: Record) -> str:
    return _name("image", record.image_hash)


def _start(record: Record) -> str:
    """All rates and budgets of an init start alike."""
    sizes = [record.settings.get(name) for name in ("width", "depth")]
    return _name("start", record.init, record.init_facts, sizes, record.image_hash, record.seed)


def _end(record: Record) -> str:
    return _name("end", *record.trial)
