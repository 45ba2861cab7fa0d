"""A rotated and a mirrored image, through the task itself: catalogue, regions and components are right on the sky."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.skyframe import jacobian, transform

pytest.importorskip("casatools")
from casa_deepfocus.casa import images  # noqa: E402
from casa_deepfocus.casa.task_sdeepfocus import sdeepfocus  # noqa: E402

pytestmark = [pytest.mark.casa, pytest.mark.slow]

N, CELL = 96, 0.5
BEAM = (3.0, 2.4, 100.0)
SOURCE = {"ra": 150.003, "dec": -29.9975, "maj": 6.0, "min": 2.5, "pa": 35.0, "flux": 0.4}
NOISE = 1e-3


def header(rotation: float, mirrored: bool) -> fits.Header:
    cards = {
        "BUNIT": "Jy/beam", "BMAJ": BEAM[0] / 3600, "BMIN": BEAM[1] / 3600, "BPA": BEAM[2], "CTYPE1": "RA---SIN",
        "CTYPE2": "DEC--SIN", "CRVAL1": 150.0, "CRVAL2": -30.0, "CRPIX1": N / 2 + 1, "CRPIX2": N / 2 + 1,
        "CDELT1": (CELL if mirrored else -CELL) / 3600, "CDELT2": CELL / 3600, "CROTA2": rotation, "RADESYS": "ICRS",
        "CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CRPIX3": 1.0, "CDELT3": 1e6, "SPECSYS": "TOPOCENT",
    }  # fmt: skip
    return fits.Header(list(cards.items()))


def gaussian(east: np.ndarray, north: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Of peak 1, with a covariance in (west, north) [arcsec^2]."""
    sxx, syy, sxy = covariance
    west = -east
    return np.exp(-0.5 * (syy * west**2 + sxx * north**2 - 2.0 * sxy * west * north) / (sxx * syy - sxy**2))


def sky_image(head: fits.Header) -> np.ndarray:
    """The source through the beam, drawn by its offsets on the sky, in noise of the beam's shape."""
    y, x = np.mgrid[:N, :N]
    places = SkyCoord(*WCS(head).celestial.wcs_pix2world(x.ravel(), y.ravel(), 0), unit="deg")
    east, north = SkyCoord(SOURCE["ra"], SOURCE["dec"], unit="deg").spherical_offsets_to(places)
    beam = shape_to_covariance(*BEAM)
    seen = beam + shape_to_covariance(SOURCE["maj"], SOURCE["min"], SOURCE["pa"])
    peak = SOURCE["flux"] * np.sqrt(np.linalg.det(_matrix(beam)) / np.linalg.det(_matrix(seen)))
    source = peak * gaussian(east.arcsec, north.arcsec, seen).reshape(N, N)
    middle = SkyCoord(150.0, -30.0, unit="deg").spherical_offsets_to(places)
    kernel = gaussian(middle[0].arcsec, middle[1].arcsec, beam).reshape(N, N)
    white = np.random.default_rng(5).normal(size=(N, N))
    # Noise whose power spectrum is the beam's transform.
    noise = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(np.abs(np.fft.fft2(np.fft.ifftshift(kernel))))).real
    return source + NOISE * noise / noise.std()


def _matrix(covariance: np.ndarray) -> np.ndarray:
    return np.array([[covariance[0], covariance[2]], [covariance[2], covariance[1]]])


def seen_on_the_sky(weights: np.ndarray, head: fits.Header) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Centre (ra, dec) and shape [arcsec, arcsec, deg] of an image (y, x) by its moments."""
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    total = weights.sum()
    cx, cy = (weights * x).sum() / total, (weights * y).sum() / total
    spread = [(weights * a * b).sum() / total for a, b in ((x - cx, x - cx), (y - cy, y - cy), (x - cx, y - cy))]
    wcs = WCS(head).celestial
    maj, minor, pa = covariance_to_shape(transform(np.array(spread), jacobian(wcs, cx, cy)))
    return wcs.wcs_pix2world([[cx, cy]], 0)[0], (float(maj), float(minor), float(pa))


@pytest.mark.parametrize(("rotation", "mirrored"), [(130.0, False), (-50.0, True)])
def test_an_elongated_source_has_its_place_and_angle_on_the_sky(rotation, mirrored):
    from casatools import componentlist, regionmanager

    head = header(rotation, mirrored)
    fits.PrimaryHDU(sky_image(head)[None].astype("f4"), head).writeto("x.fits")
    back = sdeepfocus(imagename="x.fits", outfile="x", mode="continuum")
    assert len(back["sources"]) == 1
    row = back["sources"][0]
    truth = SkyCoord(SOURCE["ra"], SOURCE["dec"], unit="deg")
    assert SkyCoord(row["ra"], row["dec"], unit="deg").separation(truth).arcsec < 0.05
    assert row["name"].startswith("J100000")
    assert abs(row["pa"] - SOURCE["pa"]) < max(4.0 * row["pa_err"], 1.0) and row["pa_err"] < 3.0
    assert row["fwhm_maj"] == pytest.approx(SOURCE["maj"], abs=0.3)
    assert row["fwhm_min"] == pytest.approx(SOURCE["min"], abs=0.4)
    assert row["continuum"] == pytest.approx(SOURCE["flux"], rel=0.03)

    observed = covariance_to_shape(shape_to_covariance(SOURCE["maj"], SOURCE["min"], SOURCE["pa"])
                                   + shape_to_covariance(*BEAM))  # fmt: skip
    # The region, by CASA's region manager on the input.
    rg = regionmanager()
    with images.opened("x.fits") as ia:
        csys = ia.coordsys()
        region = rg.fromtext(Path("x.crtf").read_text().splitlines()[2], [N, N, 1], csys.torecord())
        part = ia.subimage("", region=region)
        inside = part.getchunk(getmask=True)[:, :, 0].T.astype(float)
        corner = ia.boundingbox(region)["blc"]
        part.done()
        csys.done()
        rg.done()
    whole = np.zeros((N, N))
    whole[corner[1] : corner[1] + inside.shape[0], corner[0] : corner[0] + inside.shape[1]] = inside
    place, shape = seen_on_the_sky(whole, head)
    assert SkyCoord(*place, unit="deg").separation(truth).arcsec < 0.2
    assert abs(shape[2] - float(observed[2])) < 3.0
    # An ellipse filled evenly has a standard deviation of half its semi-axis, one FWHM as observed.
    assert 2.0 * shape[0] / FWHM_PER_SIGMA == pytest.approx(float(observed[0]), rel=0.06)

    # The component, drawn by CASA onto the input's grid.
    cl = componentlist()
    cl.open("x.cl")
    with images.opened("x.mask") as ia:
        model = ia.newimagefromshape("", list(ia.shape()), csys=ia.coordsys().torecord())
        model.setbrightnessunit("Jy/pixel")
        model.modify(cl.torecord(), subtract=False)
        drawn = model.getchunk().T.reshape(N, N)
        model.done()
    cl.done()
    place, shape = seen_on_the_sky(drawn, head)
    assert SkyCoord(*place, unit="deg").separation(truth).arcsec < 0.1
    assert abs(shape[2] - row["pa"]) < 0.5
    assert shape[0] == pytest.approx(row["fwhm_maj"], rel=0.02)

    # The mask lies on the source.
    with images.opened("x.mask") as ia:
        mask = ia.getchunk().T.reshape(N, N)
        x, y = WCS(head).celestial.wcs_world2pix([[truth.ra.deg, truth.dec.deg]], 0)[0]
    assert mask[round(float(y)), round(float(x))] == 1 and mask.mean() < 0.2
    place, shape = seen_on_the_sky(mask, head)
    assert SkyCoord(*place, unit="deg").separation(truth).arcsec < 0.5
    assert abs((shape[2] - float(observed[2]) + 90.0) % 180.0 - 90.0) < 5.0
