"""Where a file or a figure comes from: which code made it, and when."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
from pathlib import Path

import matfill


def source_version() -> str:
    """matfill's version, with the commit where it runs from a checkout: "0.1.0 (0123456789ab)"."""
    here = Path(matfill.__file__).parent.parent
    if (here / ".git").exists():
        with contextlib.suppress(OSError):  # a checkout on a machine without git
            found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True)
            if found.returncode == 0:
                return f"{matfill.__version__} ({found.stdout.strip()})"
    return matfill.__version__


def today() -> str:
    """The day as ISO 8601 has it, in UTC: "2016-12-31"."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
