"""Images of a result as FITS files on the input's grid, and the headers of cubes.

The headers are those that CASA's exportfits would write: frequency axis with its frame and rest frequency, and one
beam per channel in a table (CASAMBM) where that is asked for. They carry no date of writing, so the same cube makes the
same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.products.marks import MAKER, SOFTWARE

if TYPE_CHECKING:
    from casa_deepfocus.pipeline.state import Result

RADIO_VELOCITY = 256
"""VELREF's flag for radio velocities; the frame's code is added to it (AIPS, as CASA writes it)."""

FRAME_CODES = {"LSRK": 1, "BARY": 2, "TOPO": 3}
CASA_FRAMES = {"LSRK": "LSRK", "BARY": "BARYCENT", "TOPO": "TOPOCENT", "GEO": "GEOCENTR", "LSRD": "LSRD"}
"""SPECSYS of a frame as CASA names it."""


def cube_header(cube: Cube, shape: tuple[int, int], bunit: str) -> fits.Header:
    """FITS header of a cube with axes (frequency, y, x), its image centred on the cube's.

    Parameters
    ----------
    cube : Cube
    shape : (ny, nx), the cube's or the PSF's
    bunit : str
    """
    celestial = cube.wcs if cube.wcs is not None else WCS(naxis=2)
    header = celestial.to_header()
    header["WCSAXES"] = 3
    for axis, mine, ours in ((1, shape[1], cube.shape[1]), (2, shape[0], cube.shape[0])):
        header[f"CRPIX{axis}"] += mine // 2 - ours // 2
    # One channel has no width that a cube knows, but a header with a step of zero cannot be read.
    step = cube.chan_width or float(cube.freq[0])
    cards = {
        "CTYPE3": "FREQ", "CUNIT3": "Hz", "CRPIX3": 1.0, "CRVAL3": float(cube.freq[0]),
        "CDELT3": step, "SPECSYS": CASA_FRAMES.get(cube.frame, cube.frame), "RESTFRQ": float(cube.restfreq),
        "BUNIT": bunit,
    }  # fmt: skip
    if cube.frame in FRAME_CODES:
        cards["VELREF"] = RADIO_VELOCITY + FRAME_CODES[cube.frame]
    beam = cube.beams[cube.nchan // 2]
    if np.isfinite(beam).all():
        cards |= {"BMAJ": float(beam[0]) / 3600.0, "BMIN": float(beam[1]) / 3600.0, "BPA": float(beam[2])}
    # A configuration such as alma.cycle9.3 belongs to an observatory that CASA knows by its first part.
    telescope = cube.meta.get("telescope", "")
    cards |= {"TELESCOP": telescope.split(".")[0].upper(), "INSTRUME": telescope} if telescope else {}
    for keyword, key in (("OBJECT", "object"), ("OBSERVER", "observer"), ("DATE-OBS", "date")):
        if cube.meta.get(key):
            cards[keyword] = cube.meta[key]
    for name, value in cards.items():
        header[name] = plain(value) if isinstance(value, str) else value
    return header


def beam_table(cube: Cube) -> fits.BinTableHDU:
    """CASA's table of one beam per channel."""
    number = np.arange(cube.nchan, dtype=np.int32)
    # As tclean does it: a channel without data has a beam of size zero.
    beams = np.where(np.isfinite(cube.beams).all(axis=1, keepdims=True), cube.beams, 0.0)
    columns = [
        fits.Column("BMAJ", "1E", "arcsec", array=beams[:, 0]),
        fits.Column("BMIN", "1E", "arcsec", array=beams[:, 1]),
        fits.Column("BPA", "1E", "deg", array=beams[:, 2]),
        fits.Column("CHAN", "1J", array=number),
        fits.Column("POL", "1J", array=np.zeros_like(number)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="BEAMS")
    table.header["NCHAN"], table.header["NPOL"] = cube.nchan, 1
    return table


def write(path: Path | str, pixels: NDArray, cube: Cube, bunit: str = "", history: tuple[str, ...] = ()) -> None:
    """Write a cube or a map on the grid of a cube, of its own type: truths as bytes.

    Parameters
    ----------
    path : Path
    pixels : (nchan, ny, nx) or (ny, nx)
    cube : Cube
    bunit : str
    history : tuple of str
    """
    header = header_of(cube, bunit) if pixels.ndim == 3 else _sky_header(cube, bunit)
    if pixels.ndim == 3 and header["WCSAXES"] == 2:
        pixels = pixels[0]
    header["ORIGIN"], header["CREATOR"] = MAKER, SOFTWARE
    for line in history:
        header.add_history(plain(line))
    kind = np.uint8 if pixels.dtype == bool else np.float32
    fits.writeto(path, pixels.astype(kind), header)


def header_of(cube: Cube, bunit: str) -> fits.Header:
    """The header of a cube on the grid of another; of an image without frequencies that of its sky, with two axes."""
    return cube_header(cube, cube.shape, bunit) if np.isfinite(cube.freq).all() else _sky_header(cube, bunit)


def plain(text: str) -> str:
    """A text in the characters that a FITS header may hold."""
    shown = text.encode("ascii", "backslashreplace").decode()
    return "".join(c if " " <= c <= "~" else "?" for c in shown)


def _sky_header(cube: Cube, bunit: str) -> fits.Header:
    header = (cube.wcs if cube.wcs is not None else WCS(naxis=2)).to_header()
    maj, minor, pa = cube.beam_on_sky()
    header["BMAJ"], header["BMIN"], header["BPA"] = maj / 3600.0, minor / 3600.0, pa
    header["BUNIT"] = bunit
    header["WCSAXES"] = 2
    return header


def noise_image(result: Result) -> NDArray[np.float32]:
    """(ny, nx) noise over the image [Jy/beam], of the median channel, not corrected for the primary beam."""
    noise = np.float32(np.nanmedian(result.noise))
    if result.noise_map is None:
        return np.full(result.probability.shape, noise, dtype=np.float32)
    return (noise * result.noise_map).astype(np.float32)
