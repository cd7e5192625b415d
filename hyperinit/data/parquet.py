"""Parquet files with a column of encoded images -> images by index. Needs pyarrow.

The column holds the bytes of image files, or what Hugging Face's `Image` feature writes: a
struct of `bytes` and `path`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.extras import need
from hyperinit.base.files import shown_path
from hyperinit.data.paths import expand, short_names, split_field
from hyperinit.data.source import Numbered, Source, decoded, line

# Usual names of image columns, to choose one when several columns hold bytes.
USUAL = ("image", "img", "jpg", "png", "picture", "photo", "pixels", "content", "bytes")


@dataclass
class _Column:
    """A column of several files; the row group read last is kept in memory."""

    files: list[Any]  # pyarrow.parquet.ParquetFile
    column: str
    groups: list[tuple[int, int]]  # (file index, row group) of every part of `names`
    names: Numbered
    lock: Lock = field(default_factory=Lock)
    current: int = -1
    rows: Any = None

    def read(self, index: int) -> Tensor:
        """See `Source.read`."""
        part, row = self.names.place(index)
        try:
            with self.lock:
                if self.current != part:
                    self.rows, self.current = None, -1
                    file, group = self.groups[part]
                    table = self.files[file].read_row_group(
                        group, columns=[self.column], use_threads=False
                    )
                    self.rows, self.current = table.column(0), part
                value = self.rows[row].as_py()
        except Exception as error:  # pyarrow raises a dozen kinds, and damaged files lack rows
            raise InputError(f"the file is damaged ({line(error)})") from error
        return decoded(content_of(value), self.names[index])


def content_of(value: Any) -> Any:
    """The bytes of an image file from one value of an image column.

    Raises:
        InputError: the value has only a path, which cannot be followed from here.
    """
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is None and value.get("path"):
        raise InputError(f"has no bytes of an image file, only the path {value['path'][:80]!r}")
    return value.get("bytes")


def open_parquet(spec: str, limit: int | None = None) -> Source:
    """Finds the images in Parquet files.

    Args:
        spec: See `expand`; "FILE#COLUMN" says which column to read if several hold bytes.
        limit: Ignored.

    Raises:
        InputError: pyarrow is not installed; a file is missing or not a Parquet file; the column
            does not exist, or no column holds bytes, or several do and none has a usual name.
    """
    parquet: Any = need("parquet", "parquet")
    path, wanted = split_field(spec)
    paths = expand(path)
    files, groups, parts, column = [], [], [], ""
    for number, (file, shown) in enumerate(zip(paths, short_names(paths), strict=True)):
        try:
            opened = parquet.ParquetFile(file, pre_buffer=False)
        except Exception as error:
            raise InputError(f"{shown_path(file)}: not a Parquet file ({line(error)})") from error
        column = image_column(opened.schema_arrow, wanted or column, shown_path(file))
        files.append(opened)
        for group in range(opened.metadata.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            groups.append((number, group))
            parts.append((shown, group, rows))
    names = _RowNames(parts)
    return Source(spec, names, _Column(files, column, groups, names).read, again=False)


class _RowNames(Numbered):
    """Names of rows, numbered through all row groups of a file."""

    def __init__(self, parts: Iterable[tuple[str, int, int]]) -> None:
        parts = list(parts)
        super().__init__([(file, rows) for file, _, rows in parts])
        self._before: list[int] = []
        for i, (_, group, _) in enumerate(parts):
            self._before.append(self._before[i - 1] + parts[i - 1][2] if group else 0)

    def label(self, part: int, number: int) -> str:
        """See `Numbered`."""
        return super().label(part, self._before[part] + number)


def image_column(schema: Any, wanted: str, name: str) -> str:
    """The column of a pyarrow schema that holds encoded images.

    Args:
        schema: The file's schema.
        wanted: The column that was asked for, or "".
        name: What error messages call the file.

    Raises:
        InputError: there is no such column, it holds something else, or there are several.
    """
    holders = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted:
        if wanted not in schema.names:
            known = ", ".join(schema.names) or "none"
            raise InputError(f"{name}: has no column {wanted!r}; it has {known}")
        if wanted not in holders:
            kind = schema.field(wanted).type
            raise InputError(f"{name}: column {wanted!r} must hold encoded images, not {kind}")
        return wanted
    usual = [column for known in USUAL for column in holders if column.lower() == known]
    if usual or len(holders) == 1:
        return str((usual or holders)[0])
    if not holders:
        known = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise InputError(f"{name}: has no column of encoded images; it has {known[:200]}")
    raise InputError(f"{name}: which column? Write FILE#COLUMN, with one of {', '.join(holders)}")


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(
            kind.field(i).name == "bytes" and _holds_bytes(kind.field(i).type)
            for i in range(kind.num_fields)
        )
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
