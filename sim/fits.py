"""Cubes as FITS: dirty, psf and pb of one field in a folder, and back into a `Cube`.

The headers are those that CASA's exportfits would write: frequency axis with its frame and rest
frequency, SIN projection, and one beam per channel in a table (CASAMBM). They carry no date of
writing, so the same cube makes the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.psf import fit_beam, gaussian_psf
from casa_deepfocus.errors import DataError, ProductError

PRODUCTS = ("dirty", "psf", "pb")
"""The images of a field; each is a file of that name with the ending .fits."""

UNITS = {"": 1.0, "jy/beam": 1.0, "jybeam-1": 1.0, "mjy/beam": 1e-3, "mjybeam-1": 1e-3, "ujy/beam": 1e-6}
"""Brightness units that are read, in Jy/beam."""

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
        header[name] = value
    return header


def write_cube(cube: Cube, folder: Path, products: Sequence[str] = PRODUCTS) -> None:
    """Write ``dirty.fits``, ``psf.fits`` and ``pb.fits`` of a cube.

    The dirty cube carries CASA's table of one beam per channel (CASAMBM). Blank pixels and flagged
    channels are NaN.

    Parameters
    ----------
    cube : Cube
    folder : Path, made here
    products : which of `PRODUCTS`

    Raises
    ------
    ProductError
        When the folder exists already.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ProductError(f"{folder} exists; remove it or choose another folder") from error
    arrays = {"dirty": (cube.data, "Jy/beam"), "psf": (cube.psf, ""), "pb": (cube.pb, "")}
    for name in products:
        array, bunit = arrays[name]
        header = cube_header(cube, (array.shape[1], array.shape[2]), bunit)
        if name == "dirty":
            header["CASAMBM"] = True
        units = fits.HDUList([fits.PrimaryHDU(np.asarray(array, dtype=np.float32), header)])
        if name == "dirty":
            units.append(_beam_table(cube))
        units.writeto(folder / f"{name}.fits")


def _beam_table(cube: Cube) -> fits.BinTableHDU:
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


def file_bytes(shape: tuple[int, int, int]) -> int:
    """About the size [byte] of a FITS image of float32 with header and beam table, from above."""
    nchan, ny, nx = shape
    return 4 * nchan * ny * nx + 20 * nchan + 6 * 2880


def read_cube(path: Path | str, *, psf: Path | str | None = None, pb: Path | str | None = None) -> Cube:
    """Read a dirty FITS image with its PSF and primary beam.

    Parameters
    ----------
    path : a folder that `write_cube` filled, or a FITS image in Jy/beam of 2 to 4 axes in any order, such as
        those of the ALMA archive; of several Stokes planes I is taken
    psf, pb : FITS images of the same pixel size; where None, the files of that name beside `path`
        (``psf.fits`` beside ``dirty.fits``, ``x.psf.fits`` beside ``x.image.fits``). Without a PSF the
        Gaussian of the header's beam stands in for it, without a pb the response is 1 everywhere

    Returns
    -------
    Cube

    Raises
    ------
    DataError
        Where an image cannot be used, or they do not fit each other.
    """
    dirty = Path(path)
    dirty = dirty / "dirty.fits" if dirty.is_dir() else dirty
    data, header, beams = _read_image(dirty)
    _scale(data, header, dirty)
    # tclean leaves channels without data at exactly zero.
    data[~np.nan_to_num(data).any(axis=(1, 2))] = np.nan
    nchan, ny, nx = data.shape
    wcs = _wcs(header)
    celestial, cell = _celestial(wcs, dirty)
    psf_path = Path(psf) if psf is not None else _companion(dirty, "psf")
    pb_path = Path(pb) if pb is not None else _companion(dirty, "pb")
    psf_data = _read_psf(psf_path, nchan, cell) if psf_path is not None else None
    if beams is None and psf_data is not None:
        maj, minor, pa = covariance_to_shape(np.array([fit_beam(plane) for plane in psf_data]))
        beams = np.stack([maj * cell, minor * cell, pa], axis=1)
    if beams is None:
        raise DataError(f"{dirty} has neither a beam in its header nor a PSF beside it: give psf=")
    beams = np.array(np.broadcast_to(beams, (nchan, 3)))
    response = np.ones((1, ny, nx), np.float32)
    if pb_path is not None:
        response, _, _ = _read_image(pb_path)
        if response.shape[1:] != (ny, nx) or len(response) not in (1, nchan):
            raise DataError(f"{pb_path} has {response.shape} pixels (chan, y, x), {dirty} {data.shape}")
    meta = {key: str(header[word]) for word, key in META.items() if header.get(word)}
    freq, frame, restfreq = _frequencies(wcs, nchan, dirty)
    return Cube(
        data=data,
        psf=psf_data if psf_data is not None else gaussian_psf(beams, cell, (2 * ny, 2 * nx)),
        pb=response,
        freq=freq,
        beams=beams,
        cell=cell,
        wcs=celestial,
        frame=frame,
        restfreq=restfreq,
        psf_is_measured=psf_data is not None,
        spectral=nchan > 1,
        meta=meta | {"radesys": str(celestial.wcs.radesys)},
    )


META = {"OBJECT": "object", "TELESCOP": "telescope", "OBSERVER": "observer", "DATE-OBS": "date"}
"""FITS keywords and their keys in `Cube.meta`."""


def _companion(dirty: Path, kind: str) -> Path | None:
    """The psf or pb beside a dirty image, by name."""
    name = dirty.name
    for ending in (".fits.gz", ".fits", ".fit"):
        name = name.removesuffix(ending)
    endings = (".image", ".residual", ".dirty")
    stems = [name, *(name.removesuffix(ending) for ending in endings if name.endswith(ending))]
    candidates = [dirty.with_name(f"{stem}.{kind}.fits") for stem in stems]
    if name == "dirty":
        candidates.insert(0, dirty.with_name(f"{kind}.fits"))
    return next((path for path in candidates if path.is_file()), None)


def _wcs(header: fits.Header) -> WCS:
    with warnings.catch_warnings():
        # Old dates and units that astropy understands all the same.
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header)


def _read_image(path: Path) -> tuple[NDArray[np.float32], fits.Header, NDArray[np.float64] | None]:
    """Pixels (chan, y, x) in native byte order, the header, and the beams (nchan or 1, 3) [arcsec, arcsec, deg]."""
    try:
        with warnings.catch_warnings():
            # Reading its pixels is going to fail, which says the same.
            warnings.filterwarnings("ignore", message="File may have been truncated")
            units = fits.open(path)
        with units:
            unit = next((hdu for hdu in units if hdu.is_image and hdu.data is not None), None)
            if unit is None:
                raise DataError(f"{path} holds no image")
            planes = _planes(unit.data, unit.header, path)
            table = units["BEAMS"] if "BEAMS" in units else None
            beams = _table_beams(table) if table is not None else _header_beam(unit.header)
            return np.array(planes, dtype=np.float32, order="C"), unit.header.copy(), beams
    except DataError:
        raise
    except (OSError, TypeError, ValueError) as error:
        # The latter two where a truncated file ends inside its data.
        raise DataError(f"{path} cannot be read as FITS ({error})") from error


def _planes(data: NDArray, header: fits.Header, path: Path) -> NDArray:
    """A view (chan, y, x) of a FITS image's pixels."""
    wcs = _wcs(header).wcs
    if wcs.lng < 0 or wcs.lat < 0:
        raise DataError(f"{path} has no sky axes (right ascension and declination)")
    roles = {axis: data.ndim - 1 - axis for axis in range(data.ndim)}
    # A header may describe more axes than its image has.
    order = [roles.pop(axis) for axis in (wcs.spec, wcs.lat, wcs.lng) if 0 <= axis < data.ndim]
    index: list[int | slice] = [slice(None)] * data.ndim
    for axis, position in roles.items():
        if data.shape[position] == 1:
            index[position] = 0
        elif str(header[f"CTYPE{axis + 1}"]).strip() == "STOKES":
            # FITS counts I, Q, U, V as 1 to 4.
            first = round((1.0 - header[f"CRVAL{axis + 1}"]) / header[f"CDELT{axis + 1}"] + header[f"CRPIX{axis + 1}"])
            if not 1 <= first <= data.shape[position]:
                raise DataError(f"{path} has no plane of Stokes I")
            index[position] = first - 1
        else:
            raise DataError(f"{path} has a further axis of {data.shape[position]} pixels; extract one plane")
    kept = [position for position in range(data.ndim) if position in order]
    planes = data[tuple(index)].transpose([kept.index(position) for position in order])
    return planes if planes.ndim == 3 else planes[None]


def _table_beams(table: fits.BinTableHDU) -> NDArray[np.float64] | None:
    """(nchan, 3) beams of CASA's table; channels without one get their neighbour's."""
    rows = table.data[table.data["POL"] == 0]
    rows = rows[np.argsort(rows["CHAN"])]
    columns = [u.Quantity(rows[name], table.columns[name].unit).to_value(unit)
               for name, unit in (("BMAJ", "arcsec"), ("BMIN", "arcsec"), ("BPA", "deg"))]  # fmt: skip
    beams = np.stack(columns, axis=1).astype(float)
    beams[:, 2] %= 180.0
    good = np.flatnonzero(np.isfinite(beams).all(axis=1) & (beams[:, 1] > 0))
    if len(good) == 0:
        return None
    return beams[good[np.abs(np.arange(len(beams))[:, None] - good).argmin(axis=1)]]


def _header_beam(header: fits.Header) -> NDArray[np.float64] | None:
    if not header.get("BMIN", 0) > 0:
        return None
    return np.array([[header["BMAJ"] * 3600.0, header["BMIN"] * 3600.0, header.get("BPA", 0.0) % 180.0]])


def _scale(data: NDArray[np.float32], header: fits.Header, path: Path) -> None:
    """Bring pixels to Jy/beam, in place."""
    unit = str(header.get("BUNIT", "")).strip()
    factor = UNITS.get(unit.lower().replace(" ", "").replace(".", ""))
    if factor is None:
        raise DataError(f"{path} is in {unit!r}; an image in Jy/beam is needed")
    data *= np.float32(factor)


def _celestial(wcs: WCS, path: Path) -> tuple[WCS, float]:
    """The sky axes and the pixel size [arcsec]."""
    celestial = wcs.celestial
    sides = proj_plane_pixel_scales(celestial) * 3600.0
    matrix = celestial.pixel_scale_matrix * 3600.0
    if abs(sides[0] - sides[1]) > 1e-3 * sides[1]:
        raise DataError(f"{path} has pixels of {sides[0]:.4g} x {sides[1]:.4g} arcsec; they must be square")
    if matrix[0, 0] > 0 or matrix[1, 1] < 0 or abs(matrix[0, 1]) > 0.01 * sides[1]:
        raise DataError(f"{path} is rotated or mirrored on the sky; bring north up and east left")
    return celestial, float(sides[1])


def _frequencies(wcs: WCS, nchan: int, path: Path) -> tuple[NDArray[np.float64], str, float]:
    """(nchan,) [Hz], the frame and the rest frequency [Hz]."""
    restfreq = float(wcs.wcs.restfrq)
    if wcs.wcs.spec < 0:
        return np.full(nchan, np.nan), "", restfreq
    kind = str(wcs.wcs.ctype[wcs.wcs.spec])[:4]
    world = wcs.sub(["spectral"]).wcs_pix2world(np.arange(nchan), 0)[0]
    frames = {name: frame for frame, name in CASA_FRAMES.items()}
    frame = frames.get(str(wcs.wcs.specsys).strip(), str(wcs.wcs.specsys).strip())
    if kind == "FREQ":
        return world, frame, restfreq
    if kind == "VRAD" and restfreq > 0:
        return restfreq * (1.0 - world / (1e3 * C_KMS)), frame, restfreq
    raise DataError(f"{path} has a spectral axis of type {kind!r}; frequencies or radio velocities are needed")


def _read_psf(path: Path, nchan: int, cell: float) -> NDArray[np.float32]:
    planes, header, _ = _read_image(path)
    _, own = _celestial(_wcs(header), path)
    if abs(own - cell) > 1e-3 * cell:
        raise DataError(f"{path} has pixels of {own:.4g} arcsec, the image {cell:.4g} arcsec")
    if len(planes) not in (1, nchan):
        raise DataError(f"{path} has {len(planes)} channels, the image {nchan}")
    np.nan_to_num(planes, copy=False)
    middle = planes[:, planes.shape[1] // 2, planes.shape[2] // 2]
    good = np.flatnonzero((middle > 0) & (middle >= 0.99 * planes.max(axis=(1, 2))))
    if len(good) == 0:
        raise DataError(f"{path} has no peak in its middle pixel: give the PSF that belongs to the image")
    # A flagged channel has no PSF of its own: its neighbour's stands in, which its blank pixels never meet.
    if len(good) < len(planes):
        planes = planes[good[np.abs(np.arange(len(planes))[:, None] - good).argmin(axis=1)]]
    planes /= planes[:, planes.shape[1] // 2, planes.shape[2] // 2][:, None, None].copy()
    return planes
