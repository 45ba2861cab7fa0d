"""Calibrate real VLA data and find the galaxy in them: NGC 5921 in HI, from the `casadata` wheel.

The raw data are the demonstration data set that CASA itself is taught with; no network is needed.
Run it in an empty folder, under a CASA or a Python that has casatasks and casa_deepfocus:

    python ngc5921.py

It takes about a minute and leaves n5921_src.contsub.ms and the products ngc5921.* behind.
"""

from __future__ import annotations

import os
from typing import Any

import casadata
from casatasks import applycal, bandpass, flagdata, fluxscale, gaincal, importuvfits, setjy, split, uvcontsub

RAW = "n5921.ms"
SOURCE = "n5921_src.ms"
LINE = "n5921_src.contsub.ms"

SEARCH: dict[str, Any] = {
    "datacolumn": "data",
    "start": 5,
    "nchan": 46,
    "imsize": 256,
    "cell": "15arcsec",
    "weighting": "briggs",
    "robust": 0.5,
    "outfile": "ngc5921",
}
"""Parameters of the search: the channels that hold signal, a field of 64 arcmin."""


def calibrate() -> float:
    """Import, calibrate and split the data into the current folder; subtract the continuum.

    Returns
    -------
    float
        Flux density [Jy] found for the phase calibrator 1445+099; 2.48 is right.
    """
    importuvfits(
        fitsfile=os.path.join(casadata.datapath, "demo", "NGC5921.fits"), vis=RAW, antnamescheme="new"
    )  # fmt: skip
    flagdata(RAW, mode="manual", autocorr=True)
    setjy(vis=RAW, field="1331+305*", standard="Perley-Taylor 99", usescratch=True, scalebychan=False)
    bandpass(
        vis=RAW, caltable="n5921.bcal", field="0", selectdata=False, bandtype="B", solint="inf", combine="scan",
        refant="VA15",
    )  # fmt: skip
    gaincal(
        vis=RAW, caltable="n5921.gcal", gaintable=["n5921.bcal"], interp=["nearest"], field="0,1", spw="0:6~56",
        gaintype="G", solint="inf", calmode="ap", refant="VA15",
    )  # fmt: skip
    scale = fluxscale(
        vis=RAW, caltable="n5921.gcal", fluxtable="n5921.fluxcal", reference="1331+305*", transfer="1445*"
    )  # fmt: skip
    tables = ["n5921.fluxcal", "n5921.bcal"]
    # The calibrator is corrected with its own gains, the galaxy with those of the nearby 1445+099.
    applycal(vis=RAW, field="0", gaintable=tables, interp=["nearest", "nearest"], gainfield=["0", "0"])
    applycal(vis=RAW, field="1,2", gaintable=tables, interp=["linear", "nearest"], gainfield=["1", "0"])
    split(vis=RAW, outputvis=SOURCE, field="N5921*", datacolumn="corrected")
    uvcontsub(vis=SOURCE, outputvis=LINE, fitspec="0:4~6;50~59", fitorder=0)
    return float(scale["1"]["fitFluxd"])


def find(**parameters: Any) -> dict[str, Any]:
    """Search the continuum-subtracted data; `parameters` change those of `SEARCH`."""
    from casa_deepfocus import sdeepfocus

    return sdeepfocus(vis=LINE, **(SEARCH | parameters))


def main() -> None:
    """Calibrate, search; the sources are in the CASA log and in ngc5921.html."""
    calibrate()
    find()


if __name__ == "__main__":
    main()
