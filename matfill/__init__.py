"""matfill fills missing parts of images, several ways, and says how probable a filling is.

    import matfill

    model = matfill.load("photos")
    result = model.inpaint(image, missing, samples=4, seed=0)

See `matfill.library` for what goes in and comes out. Nothing heavy is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matfill.errors import MatfillError as MatfillError
    from matfill.library import Inpainted as Inpainted
    from matfill.library import Inpainter as Inpainter
    from matfill.library import load as load

__version__ = "0.1.0"

_HOMES = {"load": "library", "Inpainter": "library", "Inpainted": "library", "MatfillError": "errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
