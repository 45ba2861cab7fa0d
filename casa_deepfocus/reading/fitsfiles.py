"""FITS files as they come: plain, gzipped, tile-compressed, in the primary unit or in an extension."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError

READ_ERRORS = (OSError, TypeError, ValueError, KeyError, IndexError, EOFError)
"""What astropy and zlib raise on a file that ends too early or holds something else."""


@dataclass(frozen=True)
class FitsImage:
    """The first image of a FITS file, without its pixels.

    Attributes
    ----------
    name : str
    index : int
        Number of the header-data unit.
    header : astropy.io.fits.Header
        As it stands in the file.
    shape : tuple of int
        Pixels along NAXIS1, NAXIS2, ..., which is CASA's order.
    beams : (n, 4) float64 or None
        Rows of the table BEAMS: channel, FWHM major and minor [arcsec], position angle [deg]; NaN and 0 as they
        stand. Those of the first polarisation.
    others : int
        Further images in the file, which are not read.
    """

    name: str
    index: int
    header: fits.Header
    shape: tuple[int, ...]
    beams: NDArray[np.float64] | None = field(default=None, repr=False)
    others: int = 0

    @contextmanager
    def pixels(self) -> Iterator[Callable[[Sequence[int], Sequence[int]], NDArray[np.floating]]]:
        """A function of two corners, both inclusive, that reads the pixels between them, in the order of `shape`.

        Raises
        ------
        DataError
            Where the file ends before them, or is damaged.
        """
        with _opened(self.name) as units:

            def read(corner: Sequence[int], far: Sequence[int]) -> NDArray[np.floating]:
                slices = tuple(slice(first, last + 1) for first, last in zip(corner, far, strict=True))
                with _clear(self.name):
                    return np.asarray(units[self.index].section[slices[::-1]]).T

            yield read


def read(name: str) -> FitsImage | None:
    """The first image of a FITS file; None where the path is no FITS file at all.

    Raises
    ------
    DataError
        Where it is one without an image, or a damaged one.
    """
    if not os.path.isfile(name):
        return None
    try:
        with _opened(name) as units:
            len(units)
    except OSError:
        return None
    with _opened(name) as units, _clear(name):
        images = [index for index, unit in enumerate(units) if unit.is_image and unit.header.get("NAXIS", 0) >= 2]
        if not images:
            raise DataError(f"{name!r} is a FITS file without an image of two or more axes")
        unit = units[images[0]]
        header = _readable(unit.header)
        shape = tuple(int(header[f"NAXIS{axis}"]) for axis in range(1, int(header["NAXIS"]) + 1))
        table = next((other for other in units[images[0] :] if other.name == "BEAMS"), None)
        beams = None if table is None else _beam_rows(table, name)
    return FitsImage(name, images[0], header, shape, beams, len(images) - 1)


def _readable(header: fits.Header) -> fits.Header:
    """A header whose every value can be asked for: what is no FITS value (NaN, a comma) stands as text."""
    out = header.copy()
    for place, card in enumerate(header.cards):
        try:
            card.value  # noqa: B018
        except fits.VerifyError:
            text = str(card.image)[10:].split("/")[0].strip(" '")
            del out[place]
            out.insert(place, (card.keyword, text))
    return out


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    with warnings.catch_warnings():
        # What they warn of is either read all the same or fails, which says more.
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(name) as units:
            yield units


@contextmanager
def _clear(name: str) -> Iterator[None]:
    """Turn the library's errors into ours."""
    try:
        yield
    except DataError:
        raise
    except READ_ERRORS as error:
        text = str(error).strip() or type(error).__name__
        raise DataError(f"{name!r} is damaged or ends too early ({text}): fetch or write it again") from error


def _beam_rows(table: Any, name: str) -> NDArray[np.float64]:
    """(n, 4) rows of CASA's table of beams."""
    data, columns = table.data, table.columns
    if not {"BMAJ", "BMIN", "BPA"} <= set(columns.names):
        raise DataError(f"the table BEAMS of {name!r} has no columns BMAJ, BMIN and BPA")
    if "POL" in columns.names:
        data = data[data["POL"] == np.min(data["POL"])]
    chan = np.asarray(data["CHAN"], float) if "CHAN" in columns.names else np.arange(len(data), dtype=float)
    sizes = []
    for column, unit in (("BMAJ", u.arcsec), ("BMIN", u.arcsec), ("BPA", u.deg)):
        given = columns[column].unit or str(unit)
        sizes.append(u.Quantity(np.asarray(data[column], float), given).to_value(unit))
    return np.column_stack([chan, *sizes])
