"""Scores of single networks on the validation split, written into the manifest.

These say how a network does its own part, on maps, spectra and stamps; `training evaluate` scores the
whole pipeline. `predict` is the exported network, numpy in and numpy out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal
from scipy.optimize import linear_sum_assignment

from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from training.data import make_batch
from training.draw import Batch

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SEED = 20261120
"""Seed of the validation data; training uses other seeds and another split of the PSFs."""

LEVELS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
CLEAR_SNR = 5.0
QUIET = 5.0
"""[sigma] Highest sidelobe of a quiet map."""
SNR_EDGES = (3.5, 5.0, 7.0, 10.0, 20.0, 50.0, 200.0, 2000.0)
STAMP_EDGES = (5.0, 10.0, 20.0, 50.0, 200.0)


def scores(name: str, predict: Predict, *, batches: int = 20) -> dict[str, Any]:
    """All scores of one network."""
    size = {"blobs_finder": 16, "deep_gru": 64}.get(name, 128)
    data = [make_batch(name, SEED, step, size, "val") for step in range(batches)]
    if name == "blobs_finder":
        found = blobs_finder_scores(predict, data)
        quiet = blobs_finder_scores(predict, [part for batch in data if len((part := quiet_maps(batch)).inputs)])
        return {**found, "quiet_maps": quiet["maps"], "quiet_sources": quiet["sources"], "quiet": quiet["levels"]}
    if name == "deep_gru":
        return deep_gru_scores(predict, data)
    return resnet_scores(name, predict, data)


def pair(distance: NDArray[np.float64], limit: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """(m, 2) one-to-one pairs, as many as possible, none farther apart than `limit`."""
    allowed = distance <= limit
    if not allowed.any():
        return np.empty((0, 2), np.int64)
    rows, columns = linear_sum_assignment(np.where(allowed, distance, 1e6))
    keep = allowed[rows, columns]
    return np.stack([rows[keep], columns[keep]], axis=1)


def local_maxima(image: NDArray[np.float32], level: float) -> tuple[NDArray, NDArray, NDArray]:
    """x, y and value of the pixels above `level` that no neighbour within one pixel exceeds."""
    peak = (image >= ndimage.maximum_filter(image, size=3)) & (image >= level)
    y, x = np.nonzero(peak)
    return x, y, image[y, x]


def quiet_maps(batch: Batch) -> Batch:
    """The maps in which the sidelobes of the brightest source, inside or outside, stay below `QUIET` sigma.

    In the others a network that sees the map alone cannot tell a faint source from a sidelobe; the pipeline
    subtracts what is bright and looks again.
    """
    rows = batch.truth["flux"].abs().amax(dim=1) * batch.truth["sidelobe"] < QUIET
    truth = {key: value[rows] for key, value in batch.truth.items()}
    return Batch(batch.inputs[rows], batch.target[rows], batch.weight[rows], truth)


def blobs_finder_scores(predict: Predict, data: list[Batch]) -> dict[str, Any]:
    """Recall and precision of local maxima within half a beam of a source, per threshold.

    Sources that count neither way (faint, buried, outside) take their maximum out of the false ones.
    """
    rows: dict[float, list] = {level: [] for level in LEVELS}
    empty = {level: 0 for level in LEVELS}
    nempty = 0
    for batch in data:
        maps = predict(batch.inputs.numpy())[:, 0]
        t = {key: value.numpy() for key, value in batch.truth.items()}
        for i, image in enumerate(maps):
            real = t["target"][i]
            x, y, snr = t["x"][i][real], t["y"][i][real], t["snr"][i][real]
            side = image.shape[0] - 1
            asked = t["askable"][i][real] & (x >= 0) & (y >= 0) & (x <= side) & (y <= side)
            gap = np.hypot(x[:, None] - x[None], y[:, None] - y[None]) + np.where(np.eye(len(x)), np.inf, 0.0)
            alone = gap.min(axis=1, initial=np.inf) > 1.5 * PIXELS_PER_BEAM
            nempty += not real.any()
            for level in LEVELS:
                px, py, _ = local_maxima(image, level)
                empty[level] += 0 if real.any() else len(px)
                apart = np.hypot(x[:, None] - px[None], y[:, None] - py[None])
                pairs = pair(np.where(asked[:, None], apart, np.inf), PIXELS_PER_BEAM / 2)
                found = np.zeros(len(x), bool)
                found[pairs[:, 0]] = True
                free = np.setdiff1d(np.arange(len(px)), pairs[:, 1])
                excused = (apart[~asked][:, free] <= PIXELS_PER_BEAM).any(axis=0)
                rows[level].append((snr[asked], found[asked], alone[asked], int((~excused).sum())))
    out: dict[str, Any] = {"maps": sum(len(b.inputs) for b in data), "empty_maps": nempty, "levels": {}}
    for level, parts in rows.items():
        snr, found, alone = (np.concatenate([part[k] for part in parts]) for k in range(3))
        false = sum(part[3] for part in parts)
        clear = snr >= CLEAR_SNR
        out["levels"][str(level)] = {
            "recall": _ratio(found[clear].sum(), clear.sum()),
            "recall_alone": _ratio(found[clear & alone].sum(), (clear & alone).sum()),
            "recall_blended": _ratio(found[clear & ~alone].sum(), (clear & ~alone).sum()),
            "precision": _ratio(found.sum(), found.sum() + false),
            "false_per_map": _ratio(false, len(parts)),
            "false_per_empty_map": _ratio(empty[level], nempty),
            "recall_by_snr": {
                f"{low:g}-{high:g}": _ratio(found[inside].sum(), inside.sum())
                for low, high in zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True)
                if (inside := (snr >= low) & (snr < high)).any()
            },
        }
    out["sources"] = int(clear.sum())
    return out


def deep_gru_scores(predict: Predict, data: list[Batch]) -> dict[str, Any]:
    """Recall of lines within half their FWHM (at least a channel), and false peaks per spectrum."""
    counts = {level: np.zeros(5) for level in LEVELS}
    nspectra = nfree = 0
    for batch in data:
        output = predict(batch.inputs.numpy())
        t = {key: value.numpy() for key, value in batch.truth.items()}
        for i, profile in enumerate(output):
            used = t["used"][i]
            centre, fwhm, asked = t["centre"][i][used], t["fwhm"][i][used], t["asked"][i][used]
            clear = asked & (t["snr"][i][used] >= CLEAR_SNR)
            nspectra += 1
            nfree += not used.any()
            for level in LEVELS:
                # A margin of zeros lets a peak stand in the first or the last channel.
                peaks = signal.find_peaks(np.pad(profile, 1), height=level)[0] - 1
                apart = np.abs(centre[:, None] - peaks[None])
                limit = np.maximum(0.5 * fwhm, 1.0)[:, None]
                pairs = pair(np.where(asked[:, None], apart, np.inf), limit)
                found = np.zeros(len(centre), bool)
                found[pairs[:, 0]] = True
                free = np.setdiff1d(np.arange(len(peaks)), pairs[:, 1])
                excused = ((apart <= 2 * limit)[~asked][:, free]).any(axis=0)
                false = int((~excused).sum())
                counts[level] += (found[clear].sum(), clear.sum(), found.sum(), false, 0 if used.any() else false)
    levels = {
        str(level): {
            "recall": _ratio(c[0], c[1]),
            "precision": _ratio(c[2], c[2] + c[3]),
            "false_per_spectrum": _ratio(c[3], nspectra),
            "false_per_line_free_spectrum": _ratio(c[4], nfree),
        }
        for level, c in counts.items()
    }
    return {"spectra": nspectra, "line_free_spectra": nfree, "lines": int(counts[LEVELS[0]][1]), "levels": levels}


def resnet_scores(name: str, predict: Predict, data: list[Batch]) -> dict[str, Any]:
    """Median error, robust and plain scatter against SNR; for the angle of elongated sources only.

    Unit of the errors: beams (sizes), degrees (angle), dex (flux).
    """
    got = np.concatenate([predict(batch.inputs.numpy()) for batch in data])
    want = np.concatenate([batch.target.numpy() for batch in data])
    t = {key: np.concatenate([batch.truth[key].numpy() for batch in data]) for key in ("snr", "fwhm_maj", "fwhm_min")}
    chosen = np.ones(len(want), bool)
    if name == "pa":
        angle = [0.5 * np.degrees(np.arctan2(values[:, 0], values[:, 1])) for values in (got, want)]
        error = (angle[0] - angle[1] + 90.0) % 180.0 - 90.0
        chosen = (t["fwhm_maj"] > 0.5) & (t["fwhm_min"] < 0.7 * t["fwhm_maj"])
    else:
        error = (got - want)[:, 0]
    out: dict[str, Any] = {"unit": {"pa": "deg", "flux": "dex"}.get(name, "beam"), "stamps": int(chosen.sum())}
    out["by_snr"] = {}
    for low, high in zip(STAMP_EDGES[:-1], STAMP_EDGES[1:], strict=True):
        part = error[chosen & (t["snr"] >= low) & (t["snr"] < high)]
        if len(part) > 10:
            out["by_snr"][f"{low:g}-{high:g}"] = {
                "bias": round(float(np.median(part)), 4),
                "scatter": round(float(1.4826 * np.median(np.abs(part - np.median(part)))), 4),
                "std": round(float(part.std()), 4),
            }
    return out


def choose_threshold(levels: dict[str, dict[str, Any]], precision: float) -> float:
    """The lowest level that reaches a precision, else the most precise one."""
    for level, score in levels.items():
        if score["precision"] >= precision:
            return float(level)
    return float(max(levels, key=lambda level: levels[level]["precision"]))


def _ratio(part: float, whole: float) -> float:
    return round(float(part) / max(float(whole), 1.0), 4)
