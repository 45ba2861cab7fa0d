"""Reports of 0, 5, 50 and 500 planted sources: their sizes, and what a browser and a checker of accessibility say.

Chromium, and a copy of axe-core's axe.min.js (`npm pack axe-core`), are used where they are there. Sources are planted
and taken as found, so that the pages and not the search are looked at; a few have odd names.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.detection import integrated_map
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.focusing import crop_origin, focus
from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.pipeline.residual import residual
from casa_deepfocus.pipeline.result import add_to_mask, flag, number_groups
from casa_deepfocus.pipeline.state import Result, SourceDetail
from casa_deepfocus.products import report, tables
from casa_deepfocus.products.moments import moments

NOISE = 1e-3
"""Noise of a channel [Jy/beam]."""

SHARE = 0.7
"""Part of the field, about its middle, that sources are planted in."""

HOSTILE = "<script>alert(1)</script>\"'&\u202egnp"
"""A name as no header should have it."""

WIDTHS = (1280, 390)
"""Widths of the screens that the pages are looked at [CSS pixel]."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

WAIT = 60_000
"""Time that a page has [ms]."""

SERIOUS = ("serious", "critical")


@dataclass(frozen=True)
class Page:
    """What is measured of a page.

    Attributes
    ----------
    sources : int
    written : float [s], to make it
    megabytes : float
    load : float or None [s], until the browser has it
    overflow : dict, width -> CSS pixels that it is wider than the screen
    findings : dict or None, kind of axe-core's finding -> its number; None where it was not asked
    """

    sources: int
    written: float
    megabytes: float
    load: float | None = None
    overflow: dict[str, int] | None = None
    findings: dict[str, int] | None = None


def planted(number: int, seed: int, npix: int = 200, nchan: int = 48) -> tuple[Cube, Result]:
    """A simulated noisy cube with sources, and a result that has exactly these."""
    from sim.cube import simulate_cube
    from sim.response import Coverage, Grid

    rng = np.random.default_rng([seed, number])
    empty = simulate_cube([], Coverage(), Grid(npix=npix, nchan=nchan), NOISE, rng)
    return planted_on(replace(empty, restfreq=float(np.median(empty.freq))), number, rng)


def planted_on(cube: Cube, number: int, rng: np.random.Generator) -> tuple[Cube, Result]:
    """A cube of noise of `NOISE` with sources: resolved and not, discs, with a line, with continuum, and with both."""
    (ny, nx), nchan = cube.shape, cube.nchan
    cube = replace(cube, meta=cube.meta | {"object": HOSTILE})
    beam = cube.beam_pixels()
    parts = []
    for at in range(number):
        x, y = np.array([nx, ny]) * (0.5 + SHARE * (rng.random(2) - 0.5))
        size = beam * (1.5 if at % 3 == 0 else rng.uniform(0.1, 0.8))
        kind, bright = at % 4, float(10 ** rng.uniform(0.7, 1.8))
        part = Component(
            float(x), float(y), shape_to_covariance(size, 0.6 * size, float(rng.uniform(0, 180))),
            amp=bright * NOISE if kind != 3 else 0.0, chan=float(rng.uniform(0.2, 0.8) * nchan),
            fwhm=float(rng.uniform(3, 9)), cont=0.3 * bright * NOISE if kind in (0, 3) else 0.0, has_line=kind != 3,
            has_cont=kind in (0, 3), probability=0.9, profile="exponential" if at % 5 == 4 else "gaussian",
        )  # fmt: skip
        parts.append(part)
    sigma = np.full(nchan, NOISE)
    imager = Imager(cube.psf, cube.shape)
    minus = JointFit(np.zeros_like(cube.data), sigma, imager, cube.beam_covariance()).update_residual(parts)
    cube = replace(cube, data=cube.data - minus)
    fit = JointFit(cube.data, sigma, imager, cube.beam_covariance())
    fit.update_residual(parts)
    fit.measure(parts)
    parts.sort(key=lambda part: -max(part.snr_line, part.snr_cont))
    for part in parts:
        flag(part, cube, beam)
    number_groups(parts[:50], beam)
    table = cat.build(parts, np.full(len(parts), 0.99), cube)
    if number:
        table["name"][0] = HOSTILE
    mask, details = np.zeros(cube.data.shape, dtype=bool), []
    size = max(32, int(2 * round(4 * beam)))
    for row, part in zip(table, parts, strict=True):
        add_to_mask(mask, part, cube, 5.0)
        chan0, chan1 = int(row["chan0"]), int(row["chan1"])
        image, _ = focus(cube.data, chan0, chan1, sigma, (part.x, part.y), size)
        details.append(
            SourceDetail(
                str(row["name"]), image / (chan1 - chan0 + 1), crop_origin((part.x, part.y), size),
                fit.source_spectrum(part).astype(np.float32), np.zeros(nchan, np.float32),
                part.spectrum(nchan).astype(np.float32), chan0, chan1,
            )
        )  # fmt: skip
    result = Result(
        table, mask.any(axis=0).astype(np.float32), mask, integrated_map(cube.data, sigma).image, sigma, details,
        {"find": 1.0}, {"sources": number}, components=parts,
    )  # fmt: skip
    tables.complete(table, cube.frame, cube.restfreq)
    return cube, result


def write(folder: Path, number: int, seed: int) -> tuple[Path, float]:
    """A page, and the seconds that it took."""
    cube, result = planted(number, seed)
    left, lines = residual(cube, result), moments(cube, result)
    run = report.Run(("planted.fits",), call="sdeepfocus(imagename='planted.fits')", warnings=(HOSTILE,))
    start = time.perf_counter()
    report.write(folder / f"planted{number}", result, cube, run, left, lines)
    return folder / f"planted{number}.html", time.perf_counter() - start


SCRIPT = """<script>{axe}</script><script>window.addEventListener("load", async () => {{
 const out = {{width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
   load: performance.now() / 1000, findings: []}};
 if (window.axe) {{ const found = await axe.run();
   out.findings = found.violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]); }}
 const pre = document.createElement("pre"); pre.id = "measured"; pre.textContent = JSON.stringify(out);
 document.body.append(pre); }});</script>"""


def look(browser: str, page: Path, width: int, axe: str, folder: Path) -> dict[str, Any]:
    """What a browser says of a page at a width; a picture of all of it goes into the folder."""
    told = folder / f"{page.stem}-told.html"
    text = page.read_text(encoding="utf-8")
    # A screen of this width: browsers make no window that is narrower than some 500 pixels.
    told.write_text(text.replace("</body>", SCRIPT.format(axe=axe) + "</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(
        f'<!DOCTYPE html><html lang="en"><title>frame</title><body style="margin:0"><iframe id="f" title="page" '
        f'src="{html.escape(told.name)}" style="border:0;width:{width}px;height:900px"></iframe><script>'
        'const wait = setInterval(() => { const pre = document.getElementById("f").contentDocument'
        '.getElementById("measured"); if (pre) { clearInterval(wait); const mine = document.createElement("pre"); '
        'mine.id = "told"; mine.textContent = pre.textContent; document.body.append(mine); } }, 50);'
        "</script></body></html>",
        encoding="utf-8",
    )  # fmt: skip
    dumped = _browse(browser, "--dump-dom", f"--virtual-time-budget={WAIT}", frame.as_uri())
    found = re.search(r'<pre id="told">(.*?)</pre>', dumped, re.DOTALL)
    if found is None:
        return {}
    measured: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    frame.write_text(
        f'<!DOCTYPE html><html lang="en"><title>frame</title><body style="margin:0"><iframe title="page" '
        f'src="{html.escape(page.as_uri())}" style="border:0;width:{width}px;height:{measured["height"]}px"></iframe>',
        encoding="utf-8",
    )  # fmt: skip
    _browse(
        browser, f"--screenshot={folder / f'{page.stem}-{width}.png'}", f"--virtual-time-budget={WAIT}",
        f"--window-size={max(width, 500)},{min(int(measured['height']), 16000)}", frame.as_uri(),
    )  # fmt: skip
    return measured


def _browse(browser: str, *words: str) -> str:
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--allow-file-access-from-files", f"--user-data-dir={home}", *words],
            capture_output=True, text=True, timeout=3e-3 * WAIT, check=False,
        )  # fmt: skip
    return done.stdout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--n", type=int, nargs="+", default=[0, 5, 50, 500], help="sources of each page (0 5 50 500)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("report-pages"), help="folder of pages and pictures")
    parser.add_argument("--browser", default="", help="Chromium; found by its names where it is not given")
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core")
    parser.add_argument("--json", type=Path)


def run(arguments: argparse.Namespace) -> int:
    """Make the pages and print a table; the exit status is 1 where axe-core finds something serious."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.out.resolve()
    browser = arguments.browser or next(filter(None, map(shutil.which, BROWSERS)), "")
    axe = arguments.axe.read_text(encoding="utf-8") if arguments.axe else ""
    if not browser:
        print("no Chromium here: pages are made and weighed, but not looked at (--browser PATH)")
    if not axe:
        print("no axe-core given: accessibility is not checked (--axe PATH/axe.min.js, of `npm pack axe-core`)")
    pages, serious = [], 0
    print(f"{'sources':>8} {'made [s]':>9} {'MB':>6} {'load [s]':>9} {'wider by [px]':>14}  axe-core")
    for number in arguments.n:
        path, seconds = write(folder, number, arguments.seed)
        page = Page(number, seconds, path.stat().st_size / 1e6)
        if browser:
            seen = {width: look(browser, path, width, axe, folder) for width in WIDTHS}
            told = [said for said in seen.values() if said]
            findings: dict[str, int] = {}
            for impact, name, count, where in (item for said in told for item in said["findings"]):
                findings[f"{impact}: {name}"] = findings.get(f"{impact}: {name}", 0) + count
                print(f"  {impact} {name}: {where}", file=sys.stderr)
                serious += impact in SERIOUS
            page = Page(
                number, seconds, page.megabytes, max((said["load"] for said in told), default=None),
                {str(width): int(said["width"]) - width for width, said in seen.items() if said},
                findings if axe and len(told) == len(WIDTHS) else None,
            )  # fmt: skip
        pages.append(page)
        load = "-" if page.load is None else f"{page.load:.2f}"
        wider = ", ".join(f"{width}: {max(by, 0)}" for width, by in (page.overflow or {}).items()) or "-"
        said = "-" if page.findings is None else str(page.findings or "nothing found")
        print(f"{number:>8} {page.written:>9.1f} {page.megabytes:>6.2f} {load:>9} {wider:>14}  {said}", flush=True)
    print(f"pages and pictures: {folder}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(page) for page in pages], indent=1) + "\n", encoding="utf-8")
    return int(serious > 0)
