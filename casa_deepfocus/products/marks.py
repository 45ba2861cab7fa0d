"""What every product says of its origin, so that only what this package has made is ever replaced."""

from __future__ import annotations

from casa_deepfocus import __version__

MAKER = "casa_deepfocus"
SOFTWARE = f"{MAKER} {__version__}"
"""What every product says of its origin."""
