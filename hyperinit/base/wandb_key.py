"""Whether a W&B key is configured, found out without importing W&B."""

from __future__ import annotations

import netrc
import os
from urllib.parse import urlsplit


def has_key(base_url: str) -> bool:
    """Whether a key for this W&B server is configured (if not, W&B would ask on a terminal)."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        file = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return file.authenticators(urlsplit(base_url).netloc) is not None
