"""The search without CASA: arrays and FITS files, the command line, and products read back by astropy and regions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from regions import Regions
from scipy import ndimage
from test_arrows import CASA, run_blocked

import casa_deepfocus
from casa_deepfocus import cli
from casa_deepfocus.errors import DataError, ParameterError

SIDE, NCHAN, FWHM = 64, 16, 5.0
REST = 115.2712e9
LINE, FLAT = (20.0, 40.0, 8.0), (44.0, 22.0)
"""x, y and channel of the source with a line, and the place of one with a continuum."""

HOSTILE = "<script>alert(1)</script>"


def header(side: int, unit: str) -> fits.Header:
    cards = {
        "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 150.0, "CRVAL2": -20.0, "CRPIX1": side // 2 + 1.0,
        "CRPIX2": side // 2 + 1.0, "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600, "CUNIT1": "deg", "CUNIT2": "deg",
        "CTYPE3": "FREQ", "CUNIT3": "Hz", "CRPIX3": 1.0, "CRVAL3": 115.2e9, "CDELT3": 4e6, "SPECSYS": "LSRK",
        "RADESYS": "ICRS", "BUNIT": unit, "BMAJ": 1 / 3600, "BMIN": 1 / 3600, "BPA": 0.0, "RESTFRQ": REST,
        "OBJECT": HOSTILE, "OBSERVER": HOSTILE,
    }  # fmt: skip
    return fits.Header(list(cards.items()))


def gaussian(side: int, x: float, y: float) -> np.ndarray:
    rows, columns = np.indices((side, side))
    return np.exp(-4 * np.log(2) * ((columns - x) ** 2 + (rows - y) ** 2) / FWHM**2)


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small cube with a line and a continuum source as arrays and FITS files; what `find` finds in it."""
    rng = np.random.default_rng(3)
    noise = [ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), FWHM / 2.3548 / 2**0.5) for _ in range(NCHAN)]
    spectrum = 0.03 * np.exp(-4 * np.log(2) * ((np.arange(NCHAN) - LINE[2]) / 3) ** 2)
    data = 1e-3 * np.array(noise) / np.std(noise) + spectrum[:, None, None] * gaussian(SIDE, *LINE[:2])
    data = (data + 0.01 * gaussian(SIDE, *FLAT)).astype("f4")
    psf = gaussian(2 * SIDE, SIDE, SIDE).astype("f4")
    folder = tmp_path_factory.mktemp("field")
    fits.writeto(folder / "x.fits", data, header(SIDE, "Jy/beam"))
    fits.writeto(folder / "x.psf.fits", psf, WCS(header(2 * SIDE, "")).celestial.to_header())
    wcs = WCS(header(SIDE, "Jy/beam"))
    found = casa_deepfocus.find(data, wcs, psf=psf, beam=(1.0, 1.0, 0.0))
    return SimpleNamespace(data=data, psf=psf, wcs=wcs, folder=folder, found=found)


def test_arrays_are_searched(field: SimpleNamespace) -> None:
    table = field.found.catalogue
    assert len(table) == 2 and field.found["counts"]["sources"] == 2
    row = table[np.flatnonzero(np.isfinite(table["freq"]))[0]]
    assert np.hypot(row["x"] - LINE[0], row["y"] - LINE[1]) < 0.3 and row["chan"] == pytest.approx(LINE[2], abs=0.3)
    expected = (row["freq"] * u.Hz).to_value(u.km / u.s, u.doppler_radio(REST * u.Hz))
    assert row["velocity"] == pytest.approx(expected, abs=1e-6)
    maps = field.found.maps
    np.testing.assert_allclose(maps["model"] + maps["residual"], field.data, atol=1e-6)
    assert maps["residual"].std() < 1.1e-3 < field.data.std(), "what is left is noise"
    assert json.loads(json.dumps(field.found))["sources"][0]["name"] == table["name"][0]


def test_velocity_axes_and_cube_objects_are_the_same(field: SimpleNamespace) -> None:
    """What spectral-cube hands over: pixels with a unit, a header in velocities, a beam."""
    cards = header(SIDE, "mJy/beam")
    start, step = ((REST - f) / REST * 299792458.0 for f in (115.2e9, 115.2e9 + 4e6))
    cards["CTYPE3"], cards["CUNIT3"], cards["CRVAL3"], cards["CDELT3"] = "VRAD", "m/s", start, step - start
    beam = SimpleNamespace(major=1 * u.arcsec, minor=1 * u.arcsec, pa=0 * u.deg)
    cube = SimpleNamespace(filled_data=u.Quantity(1e3 * field.data, "mJy/beam"), header=cards, beam=beam)
    found = casa_deepfocus.find(cube, psf=field.psf)
    for name in ("ra", "dec", "freq", "velocity", "line_flux", "continuum"):
        ours, theirs = (np.asarray(item.catalogue[name], float) for item in (found, field.found))
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"wcs": None}, ParameterError, "wcs=None: is missing"),
        ({"data": np.zeros(3)}, ParameterError, "has not two or three axes"),
        ({"psf": np.zeros((3, 128, 128))}, ParameterError, "has 3 channels, the data 16"),
        ({"psf": np.zeros((128, 128))}, DataError, "is empty"),
        ({"beam": (1.0, 2.0)}, ParameterError, "is neither one beam nor one for each of 16 channels"),
        ({"beam": (2.0, 2.0, 0.0)}, DataError, "the main lobe of the PSF"),
        ({"minsnr": -1.0}, ParameterError, "minsnr"),
        ({"restfreq": "CO"}, ParameterError, "is no frequency"),
        ({"freq": np.arange(3.0)}, ParameterError, "does not fit data of shape"),
    ],
)
def test_what_does_not_fit_is_refused(field: SimpleNamespace, change: dict, error: type, message: str) -> None:
    given = {"data": field.data, "wcs": field.wcs, "psf": field.psf, "beam": (1.0, 1.0, 0.0)} | change
    with pytest.raises(error, match=message):
        casa_deepfocus.find(**given)


@pytest.fixture(scope="module")
def run(field: SimpleNamespace) -> tuple[Path, int]:
    """Prefix of what `casa-deepfocus run` wrote, and its exit status."""
    out = field.folder / "out"
    return out, cli.main(["run", str(field.folder / "x.fits"), "--out", str(out), "--restfreq", "115.3GHz", "--quiet"])


def test_the_command_writes_all_products(field: SimpleNamespace, run: tuple[Path, int]) -> None:
    out, status = run
    assert status == 0
    table = Table.read(f"{out}.cat.ecsv")
    np.testing.assert_allclose(table["freq"], field.found.catalogue["freq"], rtol=1e-7)
    assert table.meta["velocity"].startswith("radio, rest frequency 115.3 GHz")
    for ending, shape in (("mask", 3), ("model", 3), ("residual", 3), ("prob", 2), ("noise", 2)):
        with fits.open(f"{out}.{ending}.fits") as units:
            units.verify("exception")
            assert units[0].data.ndim == shape and units[0].header["ORIGIN"] == "casa_deepfocus"
    model, left = (fits.getdata(f"{out}.{kind}.fits") for kind in ("model", "residual"))
    np.testing.assert_allclose(model + left, field.data, atol=1e-6)
    summary = json.loads(Path(f"{out}.json").read_text())
    assert summary["sources"][0]["ra"] == table["ra"][0] and summary["call"].startswith("sdeepfocus(imagename=")
    assert len(Regions.read(f"{out}.reg", format="ds9")) == len(Regions.read(f"{out}.crtf", format="crtf")) == 2
    page = Path(f"{out}.html").read_text()
    assert HOSTILE not in page and "&lt;script&gt;" in page


def test_exit_status_and_streams(
    field: SimpleNamespace, run: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = str(field.folder / "x.fits"), str(run[0])
    assert cli.main(["run", image, "--out", out]) == 1
    assert "exists already; set overwrite=True" in capsys.readouterr().err
    assert cli.main(["run", "nothing.fits"]) == 1 and "does not exist" in capsys.readouterr().err
    assert cli.main(["run", image, "--out", "new", "--set", "cell=1arcsec"]) == 1
    assert cli.main(["run", image, "--out", "new", "--set", "cel=1"]) == 1
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", image, "--mode", "lines"])
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert casa_deepfocus.__version__ in capsys.readouterr().out
    assert cli.main(["models"]) == 0 and capsys.readouterr().out.startswith("compact")
    assert cli.main(["run", image, "--out", out, "--overwrite", "--json", "--quiet", "--mode", "continuum"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["mode"] == "continuum" and not (field.folder / "new.json").exists()


def test_it_needs_no_casa(field: SimpleNamespace) -> None:
    image, out = str(field.folder / "x.fits"), str(field.folder / "blocked")
    code = f"""
        from casa_deepfocus import cli, find
        assert cli.main(["run", {image!r}, "--out", {out!r}, "--quiet"]) == 0
        assert cli.main(["run", {str(field.folder)!r}, "--quiet"]) == 1
    """
    run_blocked(sorted(CASA), code)
    assert (field.folder / "blocked.cat.ecsv").exists()


def test_completeness_is_a_product_and_goes_with_the_next_run(
    field: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = str(field.folder / "x.fits"), str(field.folder / "shares")
    assert cli.main(["run", image, "--out", out, "--quiet", "--mode", "line", "--completeness", "2"]) == 0
    shares = Table.read(f"{out}.complete.ecsv", format="ascii.ecsv")
    assert set(shares["kind"]) == {"line"} and int(shares["injected"][shares["against"] == "snr"].sum()) == 2
    page = Path(f"{out}.html").read_text()
    assert "Of artificial sources in this cube" in page and "shares.complete.ecsv" in page
    assert "artificial" in json.loads(Path(f"{out}.json").read_text())["completeness"]
    assert cli.main(["run", image, "--out", out, "--quiet", "--completeness", "-1"]) == 1
    assert "completeness" in capsys.readouterr().err
    assert Path(f"{out}.complete.ecsv").exists(), "nothing is changed by a call that is refused"
    assert cli.main(["run", image, "--out", out, "--quiet", "--mode", "line", "--overwrite"]) == 0
    assert not Path(f"{out}.complete.ecsv").exists(), "it would be that of another run"
