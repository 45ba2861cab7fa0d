"""The grid of an image: its axes, units and coordinates, without its pixels.

FITS headers are read by `headers` and `spectral`; a `Grid` is what they say of one image. CASA's images, and what CASA
needs to write on a grid, are `casa_deepfocus.casa.grids`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from casa_deepfocus.core.skyframe import jacobian
from casa_deepfocus.errors import DataError
from casa_deepfocus.reading import fitsfiles, headers
from casa_deepfocus.reading.fitsfiles import FitsImage
from casa_deepfocus.reading.spectral import Spectrum, spectrum_of
from casa_deepfocus.reading.units import jy_per_beam

SQUARE = 1e-3
"""Largest relative difference of a pixel's sides, and of its angles from a right one."""

STRETCH = 0.05
"""Largest relative difference of the sky's scale in two directions at the middle of the image: a projection far from
its reference point, on which the beam is not the same everywhere in pixels. (SIN reaches it at 18 degrees.)"""

OBSERVED = {"OBJECT": "object", "TELESCOP": "telescope", "OBSERVER": "observer", "DATE-OBS": "date"}
"""FITS keywords and their keys in `Cube.meta`."""

T = TypeVar("T")

Reads = Callable[..., NDArray]
"""Of two corners, both inclusive, in the order of `Grid.shape`: the pixels between them, or which of them are valid."""


@dataclass(frozen=True)
class Grid:
    """What is needed to read an image.

    Attributes
    ----------
    shape : tuple of int
        Pixels along the axes, in the order of FITS and CASA.
    x, y : int
        Which of these are right ascension and declination.
    spectral, stokes : int or None
        Which are frequency and Stokes; None where the image has no such axis.
    name : str
        The image it was read from.
    unit : str
        Its brightness unit.
    wcs : astropy.wcs.WCS or None
        The sky, two axes (x, y).
    spectrum : Spectrum or None
        The spectral axis; None without one.
    fits : FitsImage or None
        The FITS file, where it is one.
    problems : tuple of DataError
        Why the image cannot be searched; `check_usable` raises the first one. A PSF or a primary beam may have them.
    """

    shape: tuple[int, ...]
    x: int
    y: int
    spectral: int | None
    stokes: int | None
    name: str
    unit: str
    wcs: WCS | None = None
    spectrum: Spectrum | None = None
    fits: FitsImage | None = None
    problems: tuple[DataError, ...] = field(default=())

    @property
    def nchan(self) -> int:
        """Number of channels; 1 without a spectral axis."""
        return 1 if self.spectral is None else self.shape[self.spectral]

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """(message, priority) of what the log should say about the header."""
        found = self.spectrum.notes if self.spectrum else ()
        if self.fits is not None and self.fits.others:
            text = f"{self.name} holds {self.fits.others + 1} images; the first one is read (unit {self.fits.index})"
            found += ((text, "WARN"),)
        return found

    @property
    def file(self) -> FitsImage:
        """The FITS file.

        Raises
        ------
        DataError
            Where the grid is not a FITS file's.
        """
        if self.fits is None:
            raise DataError(f"{self.name!r} is no FITS file")
        return self.fits

    @contextmanager
    def pixels(self) -> Iterator[tuple[Reads, Reads | None]]:
        """Two functions that read: the pixels, and which of them are valid (None: all but NaN)."""
        with self.file.pixels() as read:
            yield read, None

    def beams(self, log: Callable[..., None]) -> NDArray[np.float64] | None:
        """(nchan, 3) restoring beams [arcsec, arcsec, deg] on the sky, as the header has them; None without any."""
        found, nchan = self.file, self.nchan
        beams = None if found.beams is None else headers.table_beams(found.beams, nchan)
        if beams is None:
            beam = headers.header_beam(found)
            if beam is not None:
                log("beam {:.4g} x {:.4g} arcsec, {:.4g} deg: ".format(*beam.values) + beam.source)
                beams = np.tile(beam.values, (nchan, 1))
        return beams

    def stokes_names(self) -> list[str]:
        """The planes of the Stokes axis."""
        if self.stokes is None:
            return []
        return [headers.STOKES[round(code)] for code in headers.stokes_codes(self.file, self.stokes + 1)]

    def history(self) -> list[str]:
        """Lines of the image's history."""
        return [str(line) for line in self.file.header.get("HISTORY", [])]

    def meta(self) -> dict[str, str]:
        """Object, telescope, observer, date and frame, for `Cube.meta`."""
        meta = {"image": self.name, "radesys": str(celestial_wcs(self).wcs.radesys)}
        if meta["radesys"] != "ICRS":
            meta["equinox"] = f"{float(celestial_wcs(self).wcs.equinox):.1f}"
        header = self.file.header
        return meta | {key: str(header[word]) for word, key in OBSERVED.items() if header.get(word)}

    def set_beam(self) -> str:
        """How a beam is written into the image's header."""
        return f"astropy.io.fits.setval({self.name!r}, 'BMAJ', value=3 / 3600) [deg], and BMIN, BPA"

    def check_sky(self) -> None:
        """See that others read the sky coordinates in the same way; there is nobody to ask here."""


def inspect(name: str) -> Grid:
    """The grid of a FITS image, without its pixels.

    Raises
    ------
    DataError
        Where it is none, or the axes are not those of a dirty image: see `docs/products.md`.
    """
    found = fitsfiles.read(str(name))
    if found is None:
        raise DataError(
            f"{name!r} is a CASA image, and CASA is not installed in this Python: pip install 'casa-deepfocus[casa]', "
            "or give the FITS file that exportfits makes of it" if is_table(str(name)) else f"{name!r} is no FITS file"
        )  # fmt: skip
    return Grid(**described(found))


def described(found: FitsImage) -> dict[str, Any]:
    """What a header says: the fields of a `Grid`."""
    axes = headers.axes_of(found)
    problems: list[DataError] = []
    wcs = or_problem(problems, lambda: headers.celestial(found, axes))
    spectrum = None
    if axes.spectral is not None:
        number = axes.spectral
        spectrum = or_problem(problems, lambda: spectrum_of(found, number))
    return {
        "shape": found.shape,
        "x": axes.lng - 1,
        "y": axes.lat - 1,
        "spectral": None if axes.spectral is None else axes.spectral - 1,
        "stokes": None if axes.stokes is None else axes.stokes - 1,
        "name": found.name,
        "unit": str(found.header.get("BUNIT", "") or "").strip(),
        "wcs": wcs,
        "spectrum": spectrum,
        "fits": found,
        "problems": tuple(problems),
    }


def is_table(folder: str) -> bool:
    """Whether a folder is one of casacore's tables: an image, a measurement set, a component list."""
    return os.path.exists(os.path.join(folder, "table.dat"))


def check_usable(template: Grid) -> None:
    """See that an image has a unit, sky axes, pixels, frequencies and a Stokes plane that the core can work with.

    Raises
    ------
    DataError
        Saying what stands in the way and what removes it.
    """
    unit_scale(template)
    stokes_plane(template)
    for problem in template.problems:
        raise problem
    wcs, name = celestial_wcs(template), template.name
    sides = np.linalg.svd(wcs.pixel_scale_matrix * 3600.0, compute_uv=False)
    if sides[0] - sides[1] > SQUARE * sides[1]:
        raise DataError(
            f"{name!r} has pixels that are not square but {sides[1]:.4g} x {sides[0]:.4g} arcsec: make the image with "
            "one cell size, or regrid it with imregrid onto one that has square pixels (template=)"
        )
    ny, nx = template.shape[template.y], template.shape[template.x]
    middle = np.linalg.svd(jacobian(wcs, 0.5 * (nx - 1), 0.5 * (ny - 1)), compute_uv=False)
    if not np.isfinite(middle).all() or middle[0] - middle[1] > STRETCH * middle[1]:
        raise DataError(
            f"{name!r} is far from the reference point of its projection ({str(wcs.wcs.ctype[0])[-3:]}): at its middle "
            f"a pixel is {middle[1]:.4g} x {middle[0]:.4g} arcsec. Regrid it with imregrid onto an image that has its "
            "reference pixel within the field (template=)"
        )
    template.check_sky()


def unit_scale(template: Grid) -> float:
    """Factor that brings the pixels to Jy/beam."""
    return jy_per_beam(template.unit, template.name)


def stokes_plane(template: Grid) -> int:
    """Index of Stokes I.

    Raises
    ------
    DataError
        Where there are several planes, and I is not among them.
    """
    if template.stokes is None or template.shape[template.stokes] == 1:
        return 0
    names = template.stokes_names()
    if "I" not in names:
        raise DataError(f"{template.name!r} holds Stokes {names} and no I: extract one plane with imsubimage(stokes=)")
    return names.index("I")


def cell_size(template: Grid) -> float:
    """Pixel size [arcsec]: the square root of a pixel's area."""
    return float(np.sqrt(abs(np.linalg.det(celestial_wcs(template).pixel_scale_matrix)))) * 3600.0


def frequencies(template: Grid) -> tuple[NDArray[np.float64], str, float]:
    """Channel centres [Hz] in the image's native frame, that frame, and the rest frequency [Hz]."""
    if template.spectral is None:
        return np.full(1, np.nan), "", 0.0
    if template.spectrum is None:
        raise template.problems[0]
    return template.spectrum.freq, template.spectrum.frame, template.spectrum.restfreq


def celestial_wcs(template: Grid) -> WCS:
    """The sky coordinates of an image as a two-axis astropy WCS, for zero-based (x, y) pixels."""
    if template.wcs is None:
        raise template.problems[0]
    return template.wcs


def or_problem(problems: list[DataError], make: Callable[[], T]) -> T | None:
    """What `make` makes; None, and one more problem, where it raises one."""
    try:
        return make()
    except DataError as problem:
        problems.append(problem)
        return None
