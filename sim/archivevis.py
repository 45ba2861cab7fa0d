"""The visibilities of an archive's data set: how bright its sources have to be, and then the data.

The model is analytic (`casa_backend.add_model`), the noise that of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.casa_backend import Look, add_model, baseline_beam, casa_tool, component_visibilities, look_at
from sim.execution import Execution, antenna_sefd, looks, rows_of
from sim.skyfile import SkySource

WVR_SKY = (230.0, 160.0, 90.0, 60.0)
"""What they see on a dry night [K]."""


def _numbers(rows: Any) -> tuple[int, int]:
    """Field and data description of rows that share them."""
    return int(rows.getcell("FIELD_ID", 0)), int(rows.getcell("DATA_DESC_ID", 0))


def channel_energy(rows: Any, look: Look) -> list[NDArray[np.float64]]:
    """Squared SNR that each source of a look would have in each channel: (nchan,) a source.

    The SNR is that of a filter that knows place and shape: the weighted sum of the squared visibilities.
    """
    uvw = rows.getcol("UVW")
    antennas = [rows.getcol(name) for name in ("ANTENNA1", "ANTENNA2")]
    # (nchan, nrow) sum of the weights of both hands
    weight = (rows.getcol("WEIGHT")[:, None, :] * ~rows.getcol("FLAG")).sum(axis=0)
    found = []
    for cosines, components in look.parts:
        model = baseline_beam(look, float(np.hypot(*cosines[:2])), antennas)
        model = model * np.abs(component_visibilities(components, uvw, look.freq))
        found.append((weight * model**2).sum(axis=1))
    return found


def energies(
    vis: Path, execution: Execution, variants: Sequence[Sequence[SkySource]]
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Squared SNRs (nsource,) of the `variants` (by target) of every target and window."""
    total: dict[tuple[int, int], NDArray[np.float64]] = {}
    with casa_tool("msmetadata", vis) as meta, casa_tool("measures") as me:
        for target, window, rows in looks(vis, execution):
            if execution.windows[window].source is not None or not variants[target]:
                continue
            look = look_at(meta, me, variants[target], *_numbers(rows))
            seen = np.array([energy.sum() for energy in channel_energy(rows, look)])
            total[target, window] = total.get((target, window), np.zeros(len(seen))) + seen
    return total


def write_data(vis: Path, execution: Execution) -> None:
    """The visibilities of the targets' sources, and noise that the weights describe."""
    column = "CORRECTED_DATA" if execution.corrected else "DATA"
    with casa_tool("msmetadata", vis) as meta, casa_tool("measures") as me:
        for target, window, rows in looks(vis, execution, nomodify=False):
            field, description = _numbers(rows)
            spectral = execution.windows[window]
            if spectral.source is not None:
                continue
            data = rows.getcol("DATA")
            rng = execution.rng(3, field, window)
            sigma = rows.getcol("WEIGHT") ** -0.5
            noise = rng.standard_normal((2, *data.shape), dtype=np.float32)
            data[:] = sigma[:, None, :] * (noise[0] + 1j * noise[1])
            rows.putcol(column, data)
            add_model(rows, [column], look_at(meta, me, execution.targets[target].sources, field, description))
    _average(vis, execution, column)
    if execution.wvr:
        with casa_tool("table", vis, nomodify=False) as table, closing(table.query("DATA_DESC_ID==0")) as rows:
            sky = np.full((1, len(WVR_SKY), rows.nrows()), 0.0, complex) + np.array(WVR_SKY)[:, None]
            for name in {"DATA", column}:
                rows.putcol(name, sky)
    if execution.corrected:
        _uncalibrate(vis, execution)


def _average(vis: Path, execution: Execution, column: str) -> None:
    """Fill the channel averages of windows."""
    with casa_tool("table", vis, nomodify=False) as table:
        for window, spectral in enumerate(execution.windows):
            if spectral.source is None:
                continue
            for field in range(execution.first_field[-1]):
                with (
                    rows_of(table, field, spectral.source + execution.wvr) as whole,
                    rows_of(table, field, window + execution.wvr) as mean,
                ):
                    if not whole.nrows():
                        continue
                    good = ~whole.getcol("FLAG")
                    number = np.maximum(good.sum(axis=1, keepdims=True), 1)
                    mean.putcol(column, (whole.getcol(column) * good).sum(axis=1, keepdims=True) / number)


def _uncalibrate(vis: Path, execution: Execution) -> None:
    """DATA as the correlator gives them: coefficients, turned by every antenna's phase."""
    for _, window, rows in looks(vis, execution, nomodify=False):
        phases = execution.rng(4).uniform(-np.pi, np.pi, execution.antennas)
        gain = np.exp(1j * phases) / np.sqrt(antenna_sefd(execution, window))
        first, second = rows.getcol("ANTENNA1"), rows.getcol("ANTENNA2")
        rows.putcol("DATA", rows.getcol("CORRECTED_DATA") * (gain[first] * np.conj(gain[second])))
