"""The model card, written from the manifest so that the two cannot disagree."""

from __future__ import annotations

from typing import Any

LIMITS = """\
## Limits

- Trained on simulated Gaussian sources; no extended or diffuse emission beyond 3 beams; calibration errors in
  a fifth of Blobs Finder's maps only.
- The PSFs are those of ALMA, ACA, VLA, SMA, PdBI and ATCA configurations at natural and Briggs weighting, and
  the noise follows the uv coverage. Single-dish maps and mosaics with a changing PSF are not in the data.
- Blobs Finder sees the map and, beside it, the map without the sidelobes of what exceeds 5 sigma (CLEAN with the map's
  own PSF). Sidelobes of sources outside the image stay, as do those of calibration errors above a few per cent.
{stage}- Position angles mean nothing for sources that the beam makes round; see the likelihood fit's errors.
"""


STAGE = """\
- {names}: trained on what the networks before them predict (the paper's second stage, section 4.5).
"""
NO_STAGE = """\
- {names}: trained with the true positions and lines, not on what the networks before them predict.
"""


def model_card(manifest: dict[str, Any]) -> str:
    """Markdown text of MODEL_CARD.md."""
    networks = manifest["networks"]
    total = sum(entry["bytes"] for entry in networks.values()) / 1e6
    lines = [
        f"# Networks of casa_deepfocus, preset {manifest['preset']}",
        "",
        "Written by `python -m training export`; the numbers are those of manifest.json.",
        f"Licence {manifest['licence']}. {total:.1f} MB, ONNX opset {manifest['opset']}, made {manifest['created']}.",
        f"Thresholds: probability {manifest['thresholds']['probability']}, line {manifest['thresholds']['peak']}.",
        "",
        "## Data and schedule",
        "",
        "Maps, stamps and spectra are simulated on the fly (docs/training.md) at "
        f"{manifest['pixels_per_beam']:g} pixels per beam; scores are from PSFs and seeds that training never saw.",
        "AdamW, warm-up and cosine; the moving average of the weights is exported. Where two numbers are added,",
        "training went on from an earlier run: another stage, or another input.",
        "",
        "| network | parameters | steps | batch | minutes | validation loss | torch - onnxruntime |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in networks.items():
        t = entry["training"]
        loss = "" if t["validation_loss"] is None else f"{t['validation_loss']:.4f}"
        before = t.get("before", {"steps": 0, "minutes": 0})
        done = [f"{before[key]} + {t[key]}" if before[key] else f"{t[key]}" for key in ("steps", "minutes")]
        lines.append(
            f"| {name} | {entry['parameters']} | {done[0]} | {t['batch']} | {done[1]} | {loss} "
            f"| {entry['parity']:.0e} |"
        )
    lines += ["", "## Scores", ""]
    lines += _blobs_finder(networks["blobs_finder"]["scores"])
    lines += _deep_gru(networks["deep_gru"]["scores"])
    for name in ("fwhm_maj", "fwhm_min", "pa", "flux"):
        lines += _resnet(name, networks[name]["scores"])
    return "\n".join(lines) + "\n" + LIMITS.replace("{stage}", _stages(networks))


def _stages(networks: dict[str, Any]) -> str:
    """Which networks have been through the second stage; Blobs Finder has none."""
    out = ""
    for text, wanted in ((STAGE, 2), (NO_STAGE, 1)):
        names = [n for n, e in networks.items() if n != "blobs_finder" and e["training"].get("stage", 1) == wanted]
        out += text.format(names=", ".join(names)) if names else ""
    return out


def _blobs_finder(scores: dict[str, Any]) -> list[str]:
    head = [
        "| threshold | recall | alone | blended (1.5 beams) | precision | false per map | false per empty map |",
        "|---|---|---|---|---|---|---|",
    ]
    return [
        f"Blobs Finder: {scores['maps']} maps of 25.6 x 25.6 beams, {scores['sources']} sources with a matched-filter "
        f"SNR of 5 or more; {scores['empty_maps']} maps without a source. Local maxima within half a beam, one to one.",
        "",
        *head,
        *_levels(scores["levels"]),
        "",
        f"On the {scores['quiet_maps']} quiet maps (no sidelobe above 5 sigma), {scores['quiet_sources']} sources:",
        "",
        *head,
        *_levels(scores["quiet"]),
        "",
    ]


def _levels(levels: dict[str, Any]) -> list[str]:
    return [
        f"| {level} | {s['recall']} | {s['recall_alone']} | {s['recall_blended']} | {s['precision']} "
        f"| {s['false_per_map']} | {s['false_per_empty_map']} |"
        for level, s in levels.items()
    ]


def _deep_gru(scores: dict[str, Any]) -> list[str]:
    lines = [
        f"Deep GRU: {scores['spectra']} spectra of 16 to 512 channels, {scores['lines']} lines with SNR of 5 or more, "
        f"{scores['line_free_spectra']} spectra without a line. Peaks within half the line's FWHM.",
        "",
        "| threshold | recall | precision | false per spectrum | false per line-free spectrum |",
        "|---|---|---|---|---|",
    ]
    for level, s in scores["levels"].items():
        lines.append(
            f"| {level} | {s['recall']} | {s['precision']} | {s['false_per_spectrum']} "
            f"| {s['false_per_line_free_spectrum']} |"
        )
    return [*lines, ""]


def _resnet(name: str, scores: dict[str, Any]) -> list[str]:
    lines = [
        f"{name}: {scores['stamps']} stamps, errors in {scores['unit']}"
        + (" (sources longer than 0.5 beam, axis ratio below 0.7)." if name == "pa" else "."),
        "",
        "| SNR | bias (median) | scatter (robust) | std |",
        "|---|---|---|---|",
    ]
    lines += [f"| {snr} | {s['bias']} | {s['scatter']} | {s['std']} |" for snr, s in scores["by_snr"].items()]
    return [*lines, ""]
