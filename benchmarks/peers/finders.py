"""The finders: where they are, their settings, and how their catalogues become ours.

Thresholds of the searches are low, and `snr` (or `reliability`) is the finder's own cut of what was found.
Settings are those that won on training seeds (`python -m benchmarks peers --tune`), written down here; the
candidates are in `grid`. Every finder gets what its users would give it: finders of two dimensions the
image of the band and continuum-subtracted line images, those of three the continuum-subtracted cube.
SoFiA-2 runs with its reliability; its own continuum subtraction is among the candidates, but it measures
fluxes with the continuum still in.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from benchmarks.peers import catalogues
from benchmarks.peers.field import Field, write_field
from benchmarks.peers.process import Cost, PeerError, run_measured
from casa_deepfocus.pipeline import Options

MF3D_LOWEST = 5.0
"""[sigma] Its features below are not looked at: they are by the thousand."""

PIXELS_PER_BEAM = 4
"""What Aegean's images are averaged to."""

ROOT = Path(__file__).resolve().parents[2]
WORKERS = Path(__file__).parent / "workers"


@dataclass(frozen=True)
class Places:
    """Where the finders of this machine are; empty when not given.

    Attributes
    ----------
    python : str, a Python that has PyBDSF and AegeanTools
    sofia2 : str, the program `sofia`
    lineseeker, mf3d : str, folders of their sources
    blobcat : str, blobcat.py
    """

    python: str = sys.executable
    sofia2: str = ""
    lineseeker: str = ""
    mf3d: str = ""
    blobcat: str = ""

    @classmethod
    def from_environment(cls) -> Places:
        """PEERS_PYTHON, PEERS_SOFIA2, PEERS_LINESEEKER, PEERS_MF3D, PEERS_BLOBCAT; sofia on the PATH."""
        given = {name: os.environ.get(f"PEERS_{name.upper()}", "") for name in cls.__dataclass_fields__}
        given["python"] = given["python"] or sys.executable
        given["sofia2"] = given["sofia2"] or shutil.which("sofia") or ""
        return cls(**given)


@dataclass(frozen=True)
class Finder:
    """One finder.

    Attributes
    ----------
    name : str
    missing : callable, Places -> '' when it can run here, else what is missing and how to get it
    search : callable, (Field, settings, Places, scratch folder) -> catalogue and cost
    settings : dict, those that won
    grid : tuple of dict, the candidates, each over `settings`
    cut : str, the setting, if any, that is no more than a lower limit of the catalogue's column of its name
    """

    name: str
    missing: Callable[[Places], str]
    search: Callable[[Field, dict[str, Any], Places, Path], tuple[Table, Cost]]
    settings: dict[str, Any] = field(default_factory=dict)
    grid: tuple[dict[str, Any], ...] = ()
    cut: str = ""

    @property
    def searched(self) -> dict[str, Any]:
        """The settings that its search depends on."""
        return {name: value for name, value in self.settings.items() if name != self.cut}

    def keep(self, found: Table) -> Table:
        """The rows of a search that its `cut` leaves."""
        return found[found[self.cut] >= self.settings[self.cut]] if self.cut else found


def _work(program: str, worker: str, job: dict[str, Any], scratch: Path, out: str = "out.json") -> tuple[Path, Cost]:
    path = scratch / "job.json"
    path.write_text(json.dumps({**job, "out": str(scratch / out)}), encoding="utf-8")
    env = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    # CASA without a configuration of the user would look for its data on the network.
    if worker in ("findsources", "clean") and "CASASITECONFIG" not in os.environ:
        env["CASASITECONFIG"] = str(ROOT / "casa_deepfocus" / "casasiteconfig.py")
    cost = run_measured([program, str(WORKERS / f"{worker}.py"), str(path)], scratch, env=env)
    return scratch / out, cost


def _needs_module(module: str, how: str) -> Callable[[Places], str]:
    def missing(places: Places) -> str:
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        try:
            done = subprocess.run([places.python, "-c", code], check=False, capture_output=True)
        except OSError as error:
            return f"{places.python} cannot be started ({error})"
        return "" if done.returncode == 0 else f"{places.python} has no {module}: {how}"

    return missing


def _needs_casa(places: Places) -> str:
    return "" if importlib.util.find_spec("casatools") else "this Python has no casatools: pip install '.[casa]'"


def _needs_file(attribute: str, inside: str, how: str) -> Callable[[Places], str]:
    def missing(places: Places) -> str:
        value = getattr(places, attribute)
        if not value:
            return f"not given: {how}, then --{attribute} or PEERS_{attribute.upper()}"
        return "" if (Path(value) / inside).is_file() or Path(value).is_file() else f"{value} holds no {inside}"

    return missing


def _planes(
    worker: str, own_python: bool = False
) -> Callable[[Field, dict[str, Any], Places, Path], tuple[Table, Cost]]:
    def search(field: Field, settings: dict[str, Any], places: Places, scratch: Path) -> tuple[Table, Cost]:
        freq = [float(field.cube.freq[(plane.chan0 + plane.chan1) // 2]) for plane in field.planes]
        images = []
        for plane in field.planes:
            # They write beside their input.
            images.append(str(shutil.copy(plane.path, scratch / plane.path.name)))
        job = {
            "images": images, "settings": settings, "program": places.blobcat,
            "bin": max(1, round(math.sqrt(field.beam[0] * field.beam[1]) / field.cube.cell / PIXELS_PER_BEAM)),
            "per_image": [{"rms": p.rms, "freq": f} for p, f in zip(field.planes, freq, strict=True)],
        }  # fmt: skip
        out, cost = _work(sys.executable if own_python else places.python, worker, job, scratch)
        return catalogues.merge_planes(json.loads(out.read_text("utf-8")), field), cost

    return search


def _sofia2(field: Field, settings: dict[str, Any], places: Places, scratch: Path) -> tuple[Table, Cost]:
    own = {key: value for key, value in settings.items() if key != "cube"}
    files = {"input.data": field.folder / settings["cube"], "output.directory": scratch, "output.filename": "found"}
    lines = {**files, **own}
    (scratch / "found.par").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()), encoding="utf-8")
    try:
        cost = run_measured([places.sofia2, "found.par"], scratch)
    except PeerError as error:
        # With one or two negative detections there is nothing to judge reliability by.
        if "not invertible" in str(error) and settings["reliability.enable"] == "true":
            (scratch / "all").mkdir()
            return _sofia2(field, settings | {"reliability.enable": "false"}, places, scratch / "all")
        # It ends with an error when nothing is there.
        if "No sources" not in str(error) and "no reliable" not in str(error).lower():
            raise
        return catalogues.table([], field), Cost(**json.loads((scratch / "cost.json").read_text("utf-8")))
    path = scratch / "found_cat.xml"
    if not path.is_file():
        return catalogues.table([], field), cost
    found = Table.read(path, format="votable")
    kms, rows = field.kms(), []
    for row in found:
        value = {name: float(row[name]) for name in ("x", "y", "z", "f_sum", "f_max", "w50", "rms", "n_pix", "ell_maj")}
        # f_sum [Jy/beam x voxels]: over the beam's pixels, times the channel's width.
        area = math.pi / (4.0 * math.log(2.0)) * field.beam[0] * field.beam[1] / field.cube.cell**2
        pb = field.pb_at(value["x"], value["y"], value["z"])
        shape = {"maj": value["ell_maj"] * field.cube.cell, "min": float(row["ell_min"]) * field.cube.cell}
        rows.append(
            {
                "x": value["x"], "y": value["y"], "chan": value["z"], "line_fwhm": value["w50"] * kms,
                "line_flux": value["f_sum"] / area * kms / pb, "peak": value["f_max"] / pb,
                "snr": value["f_sum"] / (value["rms"] * math.sqrt(value["n_pix"] * area)),
                **catalogues.intrinsic({**shape, "pa": float(row["ell_pa"]), "deconvolved": False}, field),
            }
        )  # fmt: skip
    return catalogues.table(rows, field), cost


def _lineseeker(field: Field, settings: dict[str, Any], places: Places, scratch: Path) -> tuple[Table, Cost]:
    common = ["-Cube", str(field.folder / "line.fits"), "-MinSN", str(settings["min_sn"])]
    common += ["-MaxSigmas", str(settings["max_sigmas"])]
    env, cost = {"MPLBACKEND": "agg"}, Cost()
    for program in ("SearchLine.py", "GetLineCandidates.py"):
        cost += run_measured([places.python, str(Path(places.lineseeker) / program), *common], scratch, env=env)
    rows = []
    for line in (scratch / "LineCandidatesPositive.dat").read_text("utf-8").splitlines():
        word = line.split()
        if line.startswith("#") or not word:
            continue
        place = SkyCoord(word[1], word[2], unit=("hourangle", "deg"))
        x, y = field.cube.wcs.wcs_world2pix([[place.ra.deg, place.dec.deg]], 0)[0]
        freq = float(word[3]) * 1e9
        chan = (freq - field.cube.freq[0]) / field.cube.chan_width
        # It names the place alone: the rest is read from the spectrum there.
        row = {"x": float(x), "y": float(y), "peak": 1.0, "flux": math.nan, "maj": math.nan, "min": math.nan, "pa": 0.0,
               "deconvolved": True, "middle": chan, "width": 8.0, "snr": float(word[4])}  # fmt: skip
        rows.append({**catalogues.line_row(row, field), "reliability": 1.0 - float(word[5])})
    return catalogues.table(rows, field), cost


def _mf3d(field: Field, settings: dict[str, Any], places: Places, scratch: Path) -> tuple[Table, Cost]:
    job = {"program": places.mf3d, "cube": str(field.folder / "line.fits"), "settings": settings}
    out, cost = _work(places.python, "mf3d", job, scratch)
    rows = []
    for item in json.loads(out.read_text("utf-8"))["positive"]:
        if item["snr"] >= MF3D_LOWEST:
            row = {"x": item["x"], "y": item["y"], "peak": 1.0, "flux": math.nan, "maj": math.nan, "min": math.nan,
                   "pa": 0.0, "deconvolved": True, "middle": item["chan"], "width": item["width"],
                   "snr": item["snr"]}  # fmt: skip
            rows.append(catalogues.line_row(row, field))
    return catalogues.table(rows, field), cost


def _deepfocus(field: Field, settings: dict[str, Any], places: Places, scratch: Path) -> tuple[Table, Cost]:
    job = {"cube": str(field.folder / "cube.pkl"), "settings": settings}
    out, cost = _work(sys.executable, "deepfocus", job, scratch, "out.ecsv")
    return Table.read(out), cost


SOFIA2 = {
    "cube": "line.fits",
    "pipeline.threads": 1,
    "contsub.enable": "false",
    "contsub.order": 0,
    "contsub.threshold": 2.0,
    "contsub.shift": 4,
    "contsub.padding": 3,
    "scaleNoise.enable": "true",
    "scaleNoise.mode": "spectral",
    "scfind.kernelsXY": "0, 5, 10",
    "scfind.kernelsZ": "0, 3, 7, 15",
    "scfind.threshold": 4.5,
    "linker.radiusXY": 2,
    "linker.radiusZ": 2,
    "linker.minSizeXY": 5,
    "linker.minSizeZ": 3,
    "reliability.enable": "true",
    "reliability.threshold": 0.9,
    "reliability.plot": "false",
    "parameter.wcs": "false",
    "parameter.physical": "false",
    "output.writeCatXML": "true",
    "output.writeCatASCII": "false",
}
"""SoFiA-2 as its handbook advises for emission lines; far from the paper's threshold of 0.5."""

SIGMAS = tuple({"snr": value} for value in (4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 10.0, 12.0, 15.0))
"""Candidates: of what a search with a low threshold finds, the detections above this SNR are kept."""

FINDERS: dict[str, Finder] = {
    finder.name: finder
    for finder in (
        Finder(
            "deepfocus",
            lambda places: "" if importlib.util.find_spec("onnxruntime") else "this Python has no onnxruntime",
            _deepfocus,
            {"models": "", "false_alarms": Options.false_alarms},
        ),
        Finder(
            "pybdsf",
            _needs_module("bdsf", "pip install bdsf, then --python or PEERS_PYTHON"),
            _planes("pybdsf"),
            {"thresh_pix": 4.0, "thresh_isl": 3.0, "thresh": "hard", "snr": 5.0},
            SIGMAS,
            cut="snr",
        ),
        Finder(
            "aegean",
            _needs_module("AegeanTools", "pip install AegeanTools, then --python or PEERS_PYTHON"),
            _planes("aegean"),
            {"innerclip": 4.5, "outerclip": 4.0, "docov": False, "snr": 7.0},
            SIGMAS,
            cut="snr",
        ),
        Finder(
            "findsources",
            _needs_casa,
            _planes("findsources", own_python=True),
            {"sigma": 4.5, "nmax": 30, "snr": 7.0},
            SIGMAS,
            cut="snr",
        ),
        Finder(
            "blobcat",
            _needs_file("blobcat", "blobcat.py", "a copy of blobcat.py that runs on Python 3"),
            _planes("blobcat"),
            {"dSNR": 4.0, "fSNR": 2.6, "edgemin": 5, "snr": 8.0},
            SIGMAS,
            cut="snr",
        ),
        Finder(
            "sofia2",
            _needs_file("sofia2", "sofia", "build SoFiA-2 (gitlab.com/SoFiA-Admin/SoFiA-2)"),
            _sofia2,
            SOFIA2,
            (
                *({"scfind.threshold": value} for value in (3.5, 4.0, 4.5, 5.0)),
                {"cube": "dirty.fits", "contsub.enable": "true"},
            ),
        ),
        Finder(
            "lineseeker",
            _needs_file("lineseeker", "SearchLine.py", "clone github.com/jigonzal/LineSeeker"),
            _lineseeker,
            {"min_sn": 4.0, "max_sigmas": 6, "reliability": 0.98},
            tuple({"reliability": value} for value in (0.5, 0.7, 0.9, 0.98)),
            cut="reliability",
        ),
        Finder(
            "mf3d",
            _needs_file("mf3d", "MF3D_class.py", "clone github.com/pavesiriccardo/MF3D"),
            _mf3d,
            {"spatial": [0, 4, 8], "spectral": [4, 8, 12], "snr": 8.0},
            SIGMAS,
            cut="snr",
        ),
    )
}

CLEAN = {"niter": 20000, "gain": 0.1}
CLEAN_SIGMA = 3.0
"""[sigma] Hogbom CLEAN stops at this residual, as blind CLEAN of cubes does."""


def finder_named(name: str) -> Finder:
    """A finder, or ``clean+<finder>``: the same on the CLEANed cube.

    Raises
    ------
    KeyError
        When there is none of that name.
    """
    if not name.startswith("clean+"):
        return FINDERS[name]
    inner = FINDERS[name.removeprefix("clean+")]

    def missing(places: Places) -> str:
        return _needs_casa(places) or inner.missing(places)

    def search(field: Field, settings: dict[str, Any], places: Places, scratch: Path) -> tuple[Table, Cost]:
        cleaned, cost = clean(field, scratch)
        (scratch / "inner").mkdir()
        found, more = inner.search(cleaned, settings, places, scratch / "inner")
        return found, cost + more

    return Finder(name, missing, search, inner.settings, inner.grid, inner.cut)


def clean(dirty: Field, scratch: Path) -> tuple[Field, Cost]:
    """Hogbom CLEAN by CASA's deconvolve, from the dirty cube and its PSF alone."""
    threshold = f"{CLEAN_SIGMA * float(np.nanmedian(dirty.sigma)):.4g}Jy"
    job = {
        "dirty": str(dirty.folder / "dirty.fits"), "psf": str(dirty.folder / "psf.fits"),
        "settings": {**CLEAN, "threshold": threshold},
    }  # fmt: skip
    out, cost = _work(sys.executable, "clean", job, scratch, "clean.fits")
    data = np.squeeze(fits.getdata(out)).astype(np.float32).reshape(dirty.cube.data.shape)
    return write_field(scratch / "cleaned", replace(dirty.cube, data=data)), cost
