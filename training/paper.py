"""The numbers of the paper (arXiv:2211.11462), section 5, that ours stand beside."""

from __future__ import annotations

N_SOURCES = 4556
"""Sources of the paper's test set, in 1000 cubes of its own simulation."""

TABLE4: tuple[tuple[str, int, int, int, float, float, float], ...] = (
    ("BF + DeepGRU", 4202, 63, 354, 0.98, 0.923, 0.74),
    ("Pipeline", 4202, 0, 354, 1.0, 0.923, 0.74),
    ("blobcat", 2779, 2429, 1777, 0.53, 0.609, 0.61),
    ("Sofia-2", 1010, 4011, 3546, 0.20, 0.22, 0.63),
    ("decoras", 3560, 759, 996, 0.82, 0.78, 0.60),
)
"""Algorithm, TP, FP, FN, precision, recall, mean IoU. Its counting is our lenient one."""

TABLE5: dict[str, tuple[str, float, float]] = {
    "x": ("pixel", -0.004, 0.73),
    "y": ("pixel", -0.005, 0.67),
    "fwhm_maj": ("pixel", -0.04, 0.46),
    "fwhm_min": ("pixel", -0.12, 0.45),
    "chan": ("slice", 0.0, 0.003),
    "line_fwhm": ("slice", 0.0, 0.001),
    "pa": ("deg", -0.65, 20.28),
    "peak": ("mJy/beam", -9.56, 20.08),
    "line_flux": ("relative", 0.07, 0.36),
}
"""Unit, mean and std of true - predicted. `peak` is its 'flux'; `line_flux` its relative error (section 5.2)."""

FRACTIONS: tuple[tuple[str, float, float], ...] = (
    ("line_flux", 0.01, 0.68),
    ("line_flux", 0.10, 0.80),
    ("line_flux", 0.20, 0.87),
    ("pa", 0.01, 0.53),
    ("pa", 0.10, 0.73),
    ("pa", 0.20, 0.81),
)
"""Parameter, relative error, fraction of sources below it (section 5.2)."""

FIG21_EDGES = (0.0, 10.0, 20.0, 30.0, 50.0, float("inf"))
"""Sections of SNR in which the scatter of the flux's relative error is given (Fig. 21)."""
