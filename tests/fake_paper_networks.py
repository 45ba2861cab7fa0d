"""The paper's networks made of plain filters: they answer as well as networks could that had learned all."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


class PaperFilters:
    """The contract of flow 'paper'; sizes and flux ratio are those that it is told."""

    def __init__(self, *, major=0.6, minor=0.5, pa=0.0, flux=0.12, flow="paper"):
        self.answers = {"fwhm_maj": major, "fwhm_min": minor, "flux": flux}
        self.angle = 2.0 * np.deg2rad(pa)
        self.shapes: dict[str, list[tuple[int, ...]]] = {}
        self.info = {"preset": "filters", "flow": flow, "thresholds": {"probability": 0.15, "peak": 0.1}}

    def _note(self, name, inputs, *shape):
        assert inputs.dtype == np.float32 and inputs.shape[1:] == shape, (name, inputs.shape)
        assert np.isfinite(inputs).all()
        self.shapes.setdefault(name, []).append(inputs.shape)

    def blobs_finder(self, images):
        """What stands 6 times its scatter above the background."""
        self._note("blobs_finder", images, 1, 256, 256)
        assert images.min() >= 0 and images.max() <= 1
        middle = np.median(images, axis=(-2, -1), keepdims=True)
        noise = 1.4826 * np.median(np.abs(images - middle), axis=(-2, -1), keepdims=True)
        return np.clip((images - middle - 6.0 * noise) / np.maximum(1.0 - middle, 1e-6), 0, 1).astype(np.float32)

    def deep_gru(self, spectra):
        """Smoothed spectra, cut at 3 times their scatter, their crest at 1."""
        self._note("deep_gru", spectra, 128)
        smooth = ndimage.gaussian_filter1d(spectra, 1.0, axis=-1)
        smooth -= np.median(smooth, axis=-1, keepdims=True)
        noise = 1.4826 * np.median(np.abs(smooth), axis=-1, keepdims=True)
        return np.clip(
            (smooth - 4.0 * noise) / np.maximum(smooth.max(-1, keepdims=True) - 4.0 * noise, 2.0 * noise + 1e-6), 0, 1
        ).astype(np.float32)

    def _resnet(self, name, stamps):
        self._note(name, stamps, 1, 64, 64)
        return np.full((len(stamps), 1), self.answers[name], np.float32)

    def fwhm_maj(self, stamps):
        return self._resnet("fwhm_maj", stamps)

    def fwhm_min(self, stamps):
        return self._resnet("fwhm_min", stamps)

    def flux(self, stamps):
        return self._resnet("flux", stamps)

    def pa(self, stamps):
        self._note("pa", stamps, 1, 64, 64)
        return np.tile(np.array([[np.sin(self.angle), np.cos(self.angle)]], np.float32), (len(stamps), 1))
