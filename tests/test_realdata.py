"""Real telescopes: VLA data calibrated by our own example, and an ALMA image with its PSF."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

pytest.importorskip("casatools")
from casa_deepfocus.casa import images  # noqa: E402
from casa_deepfocus.casa.tasks import sdeepfocus  # noqa: E402
from casa_deepfocus.models import runner  # noqa: E402

pytestmark = [pytest.mark.casa, pytest.mark.slow]

GALAXY = SkyCoord("15:21:57", "+05:04:00", unit=("hourangle", "deg"), frame="fk5")
BEAM = 50.0
"""Beam of the NGC 5921 cube [arcsec]."""


def sky(table: Table) -> SkyCoord:
    frame = {"FK5": "fk5", "ICRS": "icrs"}[table.meta["radesys"]]
    return SkyCoord(table["ra"], table["dec"], unit="deg", frame=frame)


@pytest.fixture(scope="module")
def networks():
    folder = runner.find_folder("")
    if not (folder / "manifest.json").exists():
        pytest.skip(f"the networks are not in {folder}: they are trained and exported first")


@pytest.fixture(scope="module")
def galaxy(repository, networks, tmp_path_factory):
    """(flux of the calibrator, what the task returned, the folder) for NGC 5921."""
    spec = importlib.util.spec_from_file_location("ngc5921", repository / "docs" / "examples" / "ngc5921.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    folder = tmp_path_factory.mktemp("ngc5921")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flux = example.calibrate()
        back = example.find()
    return flux, back, folder


def test_the_calibration_is_right(galaxy):
    assert galaxy[0] == pytest.approx(2.48, abs=0.02)


def test_ngc5921_is_found(galaxy):
    """One galaxy is in the field, a rotating disc that fills the channels: one source is found."""
    _, back, folder = galaxy
    table = Table.read(folder / "ngc5921.cat.ecsv")
    assert back["counts"]["sources"] == len(table) >= 1
    assert len(table) == 1, "whatever else is found is false, or a part of the galaxy"
    (row,) = table
    assert sky(table).separation(GALAXY).arcsec[0] < BEAM
    assert "complex" in row["flags"] and row["snr"] > 10
    assert 1.4127e9 < row["freq"] < 1.4140e9
    # W50 of the galaxy is near 180 km/s, its flux in these data some 30 Jy km/s.
    assert 120 < row["line_fwhm"] < 240
    assert 20 < row["line_flux"] < 50


@pytest.fixture
def pisco(repository) -> Path:
    """The dirty ALMA image of the quasar J1342+0928 with its PSF and primary beam, where the machine has it."""
    default = repository.parent / "shared" / "realdata"
    folder = Path(os.environ.get("CASA_DEEPFOCUS_REALDATA", default)) / "pisco_alma"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: set CASA_DEEPFOCUS_REALDATA to the folder that holds pisco_alma")
    return folder / "Pisco.cii.455kms.dirty.fits"


def test_the_quasar_host_is_found_at_the_dirty_peak(pisco, networks, tmp_path):
    back = sdeepfocus(imagename=str(pisco), mode="continuum", outfile="pisco")
    table = Table.read("pisco.cat.ecsv")
    cube, _ = images.read_cube(str(pisco))
    assert cube.psf_is_measured and cube.nchan == 1
    y, x = np.unravel_index(np.nanargmax(cube.data[0]), cube.shape)
    assert (x, y) == (130, 121)
    peak = SkyCoord(*cube.wcs.wcs_pix2world([[x, y]], 0)[0], unit="deg", frame="icrs")
    assert back["counts"]["sources"] == len(table) >= 1
    assert sky(table).separation(peak).arcsec.min() < 0.1
    # The host is resolved: what is left of it beside one Gaussian may count as a second source.
    assert len(table) <= 2
