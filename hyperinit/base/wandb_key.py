"""What of W&B is found out without importing it: whether it has a key, what is not sent yet."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
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


def unsent_runs(directory: str | Path) -> list[str]:
    """The runs below a directory's `wandb/` that were written offline and not synced since."""
    found = sorted(Path(directory).glob("wandb/offline-run-*"))
    return [str(run) for run in found if not any(run.glob("*.wandb.synced"))]
