"""WebDataset shards: tar archives of image files -> images by index.

Python's tarfile reads an archive in place: one pass over the headers notes where every picture
lies, and afterwards any picture is one seek away. The webdataset package reads archives as streams,
in which a sample is reached only through all samples before it. With random access, the batch of
any step can be made directly: runs resume at exactly the same sample, and threads and processes
share the work, without any reader state. Nothing is ever extracted.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from hyperinit.base.errors import InputError
from hyperinit.base.files import shown_path
from hyperinit.base.terminal import progress
from hyperinit.data.paths import expand, short_names
from hyperinit.data.source import MAX_ENCODED_BYTES, Source, decoded, line
from hyperinit.data.tiles import groups_of
from hyperinit.images.files import IMAGE_SUFFIXES

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
_BLOCK = 512
_FACTS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
MAX_FACTS_BYTES = 2**20


@dataclass
class _Shards:
    """Where every picture lies."""

    paths: list[str]
    shown: list[str]
    names: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # sample keys, as WebDataset defines them
    shard: array[int] = field(default_factory=lambda: array("L"))
    offset: array[int] = field(default_factory=lambda: array("Q"))
    size: array[int] = field(default_factory=lambda: array("Q"))
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def read(self, index: int) -> Tensor:
        """See `Source.read`."""
        return decoded(self._content(index), self.names[index])

    def digest(self, index: int) -> str:
        """See `Source.digest`."""
        return hashlib.sha256(self._content(index)).hexdigest()

    def _content(self, index: int) -> bytes:
        path, size = self.paths[self.shard[index]], self.size[index]
        try:
            with open(path, "rb") as file:
                file.seek(self.offset[index])
                content = file.read(size)
        except OSError as error:
            raise InputError(error.strerror or "cannot be read") from error
        if len(content) < size:
            raise InputError("the archive ends before it does")
        return content

    def groups(self, tiles: bool) -> list[str]:
        """See `Source.groups`: members that share a key are one sample, so one photograph.

        Tiles are matched by key across all shards; other keys may repeat from shard to shard.
        """
        groups = groups_of(sorted(set(self.keys))) if tiles else {}
        scopes = (self.shown[number] for number in self.shard)
        return [
            groups[key] if groups.get(key, key) != key else f"{scope}/{key}"
            for key, scope in zip(self.keys, scopes, strict=True)
        ]


def open_shards(spec: str, limit: int | None = None) -> Source:
    """Finds the pictures in tar archives.

    Image files are recognised by their suffix, as in folders. Other files of a sample (.json,
    .cls, .txt) and hidden files are ignored. Links, names that lead out of the archive, and
    whatever lies behind a damaged place are listed as skipped.

    Args:
        spec: See `expand`.
        limit: Ignored.

    Raises:
        InputError: a file is missing, cannot be read or is compressed.
    """
    paths = expand(spec)
    shards = _Shards(paths, short_names(paths))
    for number in progress(range(len(paths)), desc="opening shards", leave=False):
        _scan(shards, number)
    return Source(
        spec,
        shards.names,
        shards.read,
        groups=shards.groups,
        skipped=tuple(shards.skipped),
        files=paths,
        digest=shards.digest,
    )


def _scan(shards: _Shards, number: int) -> None:
    """Notes where the pictures of one archive lie."""
    path, shown = shards.paths[number], shards.shown[number]
    seen: set[str] = set()
    archive_bytes = os.path.getsize(path)
    for member in _members(path, shown, shards.skipped):
        name = PurePosixPath(member.name)
        if name.suffix.lower() not in IMAGE_SUFFIXES or name.name.startswith("."):
            continue
        label = f"{shown}/{name}"
        reason = _unusable(member, name, archive_bytes)
        if not reason and label in seen:
            reason = "another file in the archive has this name"
        if reason:
            shards.skipped.append((label, reason))
            continue
        seen.add(label)
        shards.names.append(label)
        shards.keys.append(str(name.with_name(name.name.partition(".")[0])))
        shards.shard.append(number)
        shards.offset.append(member.offset_data)
        shards.size.append(member.size)


def _unusable(member: tarfile.TarInfo, name: PurePosixPath, archive_bytes: int) -> str:
    """Why a member cannot be used; "" if it can."""
    if name.is_absolute() or ".." in name.parts:
        return "its name leads out of the archive"
    if member.issym() or member.islnk():
        return "is a link, not a file"
    if not member.isfile() or member.issparse():
        return "is not a plain file"
    if member.size > MAX_ENCODED_BYTES:
        return f"{member.size / 2**20:.0f} MiB are too much for one image"
    if member.offset_data + member.size > archive_bytes:
        return "the archive ends before it does"
    return ""


class _Header(tarfile.TarInfo):
    """A header with a bounded long name and extra fields, which tarfile would read whole."""

    def _proc_member(self, archive: Any) -> Any:
        if self.size > MAX_FACTS_BYTES and (self.type in _FACTS):
            raise tarfile.ReadError(f"{self.size} bytes of names and extra fields")
        return super()._proc_member(archive)  # type: ignore[misc]


def _members(path: str, shown: str, skipped: list[tuple[str, str]]) -> Iterator[tarfile.TarInfo]:
    """The headers of an archive, one after the other; `skipped` says where they end too early.

    Raises:
        InputError: the file cannot be read, or is compressed.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            if start in _COMPRESSED:
                raise InputError(
                    f"{shown_path(path)}: compressed ({_COMPRESSED[start]}), so single pictures"
                    " cannot be read from it; unpack it first"
                )
            file.seek(0)
            try:
                archive: Any = tarfile.open(fileobj=file, mode="r:", tarinfo=_Header)  # noqa: SIM115
                while (member := archive.next()) is not None:
                    archive.members.clear()  # or all headers would stay in memory
                    yield member
            # tarfile raises several kinds of errors on invalid headers, and a RecursionError on a
            # long row of extension headers without a member.
            except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
                skipped.append((shown, f"not a complete tar archive: {line(error)}"))
                return
            file.seek(archive.offset)
            mark = file.read(_BLOCK)
            if mark != bytes(_BLOCK):
                what = "damaged" if mark else "perhaps cut off (it has no end mark)"
                skipped.append((shown, f"{what} at byte {archive.offset}: read up to there"))
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise InputError(f"{shown_path(path)}: {reason}") from error
