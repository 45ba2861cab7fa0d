"""The completeness of a search as table, picture and words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.figure import Figure

from casa_deepfocus.pipeline.completeness import SEED, Completeness
from casa_deepfocus.products.marks import SOFTWARE

ENDING = ".complete.ecsv"

COLOURS = {"line": "#e4572e", "continuum": "#2e86ab"}


def table(found: Completeness) -> Table:
    """The curves, a row for each bin: against SNR and against flux, of lines and of continua."""
    rows = []
    for kind in found.kinds:
        for against in ("snr", "flux"):
            unit = "" if against == "snr" else unit_of(found, kind)
            rows += [{"kind": kind, "against": against, "unit": unit} | row for row in found.curve(kind, against)]
    out = Table(rows=rows)
    for name, text in (
        ("kind", "line or continuum, of the artificial sources"),
        ("against", "snr: of the filter that knows the source; flux: on the sky"),
        ("unit", "of low, high and centre"), ("low", "lowest value in the bin"), ("high", "highest value in the bin"),
        ("centre", "geometric mean"), ("injected", "artificial sources"), ("found", "of these"),
        ("completeness", "found / injected"), ("lower", "of the binomial 68 % interval"),
        ("upper", "of the binomial 68 % interval"),
    ):  # fmt: skip
        out[name].description = text
    out.meta = {"software": SOFTWARE, "seed": SEED}
    for kind in found.kinds:
        half = found.half(kind)
        out.meta[f"half_snr_{kind}"], out.meta[f"half_flux_{kind}"] = half.snr, half.flux
    return out


def unit_of(found: Completeness, kind: str) -> str:
    """Unit of the fluxes of a kind."""
    return found.unit if kind == "line" else "Jy"


def write(prefix: Path, found: Completeness) -> None:
    """Write <prefix>.complete.ecsv."""
    table(found).write(f"{prefix}{ENDING}", format="ascii.ecsv", overwrite=True)


def sentence(found: Completeness) -> str:
    """Where half of the sources are found."""
    texts = []
    for kind in found.kinds:
        some, half = found.of(kind), found.half(kind)
        number = sum(item.found for item in some)
        name = "lines" if kind == "line" else "continua"
        if np.isfinite(half.flux) and np.isfinite(half.snr):
            flux = f"{half.flux * 1e3:.3g} m{unit_of(found, kind)}"
            texts.append(
                f"half of the {name} of {flux} (SNR {half.snr:.1f}) are found ({number} of {len(some)} in all)"
            )
        else:
            texts.append(f"{number} of {len(some)} {name} are found")
    text = "; ".join(texts)
    return f"Of artificial sources in this cube, {text}."


def figure(found: Completeness) -> Figure:
    """Completeness against SNR, and against flux for each kind."""
    out = Figure(figsize=(4.2 * (1 + len(found.kinds)), 3.4), layout="constrained")
    axes = np.atleast_1d(out.subplots(1, 1 + len(found.kinds), sharey=True))
    for place, (against, kinds) in enumerate([("snr", found.kinds), *(("flux", [kind]) for kind in found.kinds)]):
        for kind in kinds:
            rows = found.curve(kind, against)
            centre, share, low, high = (
                np.array([row[name] for row in rows]) for name in ("centre", "completeness", "lower", "upper")
            )
            errors = np.clip(np.stack([share - low, high - share]), 0.0, None)
            axes[place].errorbar(centre, share, errors, fmt="o-", color=COLOURS[kind], label=kind, capsize=2)
            half = getattr(found.half(kind), against)
            if np.isfinite(half):
                axes[place].axvline(half, color=COLOURS[kind], linestyle="dotted", linewidth=1.0)
        label = "SNR" if against == "snr" else f"flux [{unit_of(found, kinds[0])}]"
        axes[place].set(xscale="log", xlabel=label, ylim=(-0.05, 1.05))
        axes[place].legend(fontsize=8, frameon=False)
    axes[0].set_ylabel("share of artificial sources found")
    return out
