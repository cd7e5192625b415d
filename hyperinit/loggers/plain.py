"""Values and names as files and servers can hold them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any


def plain(value: Any) -> Any:
    """Any value as JSON can hold it; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {text(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    value = unwrap(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else text(value)


def text(value: object) -> str:
    """As text that UTF-8 can hold: file names may have bytes that it cannot."""
    return str(value).encode(errors="replace").decode()


def unwrap(value: Any) -> Any:
    """A one-element tensor or a NumPy scalar as a Python number; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def safe_part(name: str) -> str:
    """A name as one part of a path: itself if harmless, else cleaned and with a digest."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name)[:40].strip('_') or 'x'}-{digest}"


def safe_name(name: str) -> str:
    """A name for W&B, which makes file names of the names of images and tables."""
    return "/".join(safe_part(part) for part in name.split("/")[:8])
