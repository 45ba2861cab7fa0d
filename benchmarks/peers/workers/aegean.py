"""Aegean on images (Hancock et al. 2018, doi:10.1017/pasa.2018.3): job {images, per_image, settings, out}.

It counts the summits of an island pixel by pixel, and on maps with 8 pixels a beam splits one source into
many: images are averaged over `bin` pixels first, to about 4 pixels a beam.
"""

from __future__ import annotations

import json
import sys

from AegeanTools.source_finder import SourceFinder
from astropy.io import fits
from astropy.wcs import WCS


def average(path: str, number: int) -> str:
    """Write the image averaged over `number` x `number` pixels; returns the new file."""
    data, header = fits.getdata(path), fits.getheader(path)
    ny, nx = (size // number * number for size in data.shape)
    data = data[:ny, :nx].reshape(ny // number, number, nx // number, number).mean(axis=(1, 3))
    for axis in (1, 2):
        header[f"CRPIX{axis}"] = (header[f"CRPIX{axis}"] - 0.5) / number + 0.5
        header[f"CDELT{axis}"] *= number
    out = path.removesuffix(".fits") + "_binned.fits"
    fits.writeto(out, data, header, overwrite=True)
    return out


def rows(path: str, rms: float, number: int, settings: dict) -> list[dict]:
    """Components of one image; positions [pixel], sizes [arcsec] with the beam, fluxes [Jy/beam], [Jy]."""
    found = SourceFinder().find_sources_in_image(
        average(path, number), rms=rms, bkg=0.0, cores=1, nonegative=True, progress=False, **settings
    )
    sky = WCS(fits.getheader(path))
    out = []
    for source in found:
        x, y = sky.wcs_world2pix(source.ra, source.dec, 0)
        out.append(
            {
                "x": float(x), "y": float(y), "peak": float(source.peak_flux), "flux": float(source.int_flux),
                "maj": float(source.a), "min": float(source.b), "pa": float(source.pa), "deconvolved": False,
                "rms": rms,
            }
        )  # fmt: skip
    return out


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        job = json.load(stream)
    result = [
        rows(path, own["rms"], job["bin"], job["settings"])
        for path, own in zip(job["images"], job["per_image"], strict=True)
    ]
    with open(job["out"], "w", encoding="utf-8") as stream:
        json.dump(result, stream)
