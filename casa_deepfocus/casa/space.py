"""Room on the disk: what a run is going to write, looked up before it does the work."""

from __future__ import annotations

import errno
import math
import re
import shutil
from collections.abc import Sequence

from casa_deepfocus.errors import ProductError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when nothing more can be written."""

SAID = re.compile(r"No space left on device|Disk quota exceeded|File too large|write error|tracePWRITE")
"""Words of whoever could not write; casacore mixes up the reason, not that it was writing."""

LEAST = 2**16
"""With less room than this, any failure is the disk's [byte]: casacore writes in blocks of up to this size."""

PIXEL = 4
"""Size of a pixel of an image [byte]."""

OVERHEAD = 2 * 10**5
"""What CASA writes of an image beside its pixels [byte]: tables of its header, history and masks (120 to 170 kB)."""

REPORT = 8 * 10**6
"""Catalogues, report and its pictures [byte]; a report with the most pictures, of 100 sources, has 5 MB."""

TCLEAN_IMAGES = 6
"""Images that tclean writes at the size it is given: image, model, pb, psf, residual, and weight of a mosaic."""


def require(folder: str, needed: float, what: str) -> None:
    """See that a folder's disk has room.

    Raises
    ------
    ProductError
        With the numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ProductError(
            f"{what} need {needed / 1e6:.4g} MB of disk, {folder!r} has {free / 1e6:.4g} MB free. Make room, or give "
            "an outfile on another disk"
        )


def is_full(folder: str, words: str) -> bool:
    """Whether an error with these words came of a disk on which nothing more can be written."""
    if SAID.search(words):
        return True
    try:
        return shutil.disk_usage(folder).free < LEAST
    except OSError:
        return False


def full(folder: str, words: str) -> ProductError:
    """The error of a folder in which nothing more can be written, with the words of whoever tried."""
    free = shutil.disk_usage(folder).free
    return ProductError(
        f"nothing more can be written in {folder!r}: the disk, or a quota on it, is full ({free / 1e6:.1f} MB free; "
        f"{words.strip()}). Nothing was changed; make room, or give an outfile on another disk"
    )


def products(shape: Sequence[int], sky: Sequence[int]) -> float:
    """Size of the products [byte] for an image of this shape, `sky` pixels of it on the sky."""
    # Mask, model and residual; probability, noise, and three moments.
    return PIXEL * (3 * math.prod(shape) + 5 * math.prod(sky)) + 9 * OVERHEAD + REPORT


def imaging(nx: int, ny: int, nchan: int) -> float:
    """Size of what imaging a field of these pixels at twice its size writes [byte], products included."""
    field = PIXEL * nx * ny * nchan + OVERHEAD
    # Image and primary beam are cut to the field before the large ones go.
    return (4 * TCLEAN_IMAGES + 2) * field + products((nx, ny, nchan), (nx, ny))
