"""Networks made of plain filters: they let the pipeline be tested without weights."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


class FilterNetworks:
    """The contract of docs/architecture.md, with thresholds where the networks would have learned."""

    info = {"preset": "filters", "thresholds": {"probability": 0.5, "peak": 0.3}}

    def blobs_finder(self, maps):
        """Bright local maxima, sharpened."""
        snr = np.sinh(maps * 3.0)
        crest = np.maximum(ndimage.maximum_filter(snr, size=(1, 1, 15, 15)), 4.0)
        logistic = 1.0 / (1.0 + np.exp(-np.clip((snr - 4.2) * 1.5, -50, 50)))
        return (logistic * np.clip(snr / crest, 0, 1) ** 4).astype(np.float32)

    def deep_gru(self, spectra):
        """Smoothed spectra, cut at 3 sigma, every spectrum's crest at 1."""
        smooth = 1.8 * ndimage.gaussian_filter1d(np.sinh(spectra * 2.0), 1.0, axis=-1)
        return np.clip((smooth - 3.0) / np.maximum(smooth.max(-1, keepdims=True) - 3.0, 2.0), 0, 1).astype(np.float32)

    def fwhm_maj(self, stamps):
        return np.full((len(stamps), 1), 0.6, np.float32)

    def fwhm_min(self, stamps):
        return np.full((len(stamps), 1), 0.5, np.float32)

    def pa(self, stamps):
        return np.tile(np.array([[0.0, 1.0]], np.float32), (len(stamps), 1))

    def flux(self, stamps):
        return np.full((len(stamps), 1), 0.12, np.float32)
