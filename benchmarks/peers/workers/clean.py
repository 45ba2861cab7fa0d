"""Hogbom CLEAN of a dirty cube with its PSF by CASA's deconvolve: job {dirty, psf, settings, out}."""

from __future__ import annotations

import json
import sys

from casatasks import deconvolve, exportfits, importfits, imtrans

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        job = json.load(stream)
    for source, name in ((job["dirty"], "clean.residual"), (job["psf"], "clean.psf")):
        importfits(fitsimage=source, imagename="read.image", overwrite=True)
        # tclean's images have Stokes before frequency.
        imtrans(imagename="read.image", outfile=name, order="0132")
    deconvolve(imagename="clean", deconvolver="hogbom", interactive=False, **job["settings"])
    exportfits(imagename="clean.image", fitsimage=job["out"], overwrite=True)
