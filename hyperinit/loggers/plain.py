"""Values and names in a form that files and servers accept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from hyperinit.base.terminal import defused


def plain(value: Any) -> Any:
    """Converts any value to JSON-able data; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {text(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    value = unwrap(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else text(value)


def cell(value: Any) -> Any:
    """A value for a table on another service's page, which may be exported to a spreadsheet: text
    cannot become a link, a formula or several lines."""
    value = plain(value)
    if not isinstance(value, str):
        return value
    harmless = defused(value)
    return f"'{harmless}" if re.match(r"[=+@]|-[^\d. ]", harmless) else harmless


def text(value: object) -> str:
    """Converts to text that is valid UTF-8; file names may have bytes that are not."""
    return str(value).encode(errors="replace").decode()


def unwrap(value: Any) -> Any:
    """A one-element tensor or a NumPy scalar as a Python number; anything else unchanged."""
    return value.item() if hasattr(value, "item") else value


def safe_part(name: str) -> str:
    """A name as one part of a path: unchanged if harmless, else cleaned and with a digest."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name)[:40].strip('_') or 'x'}-{digest}"


def safe_name(name: str) -> str:
    """A name for W&B, which turns the names of images and tables into file names."""
    return "/".join(safe_part(part) for part in name.split("/")[:8])
