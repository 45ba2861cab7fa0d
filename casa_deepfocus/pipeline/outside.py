"""Sources outside of the image: their sidelobes are taken off the data that are searched and fitted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from casa_deepfocus.core.catalogue import sky_position
from casa_deepfocus.core.detection import Blob, DetectionMap
from casa_deepfocus.core.noise import blank_to_zero, inverse_variance
from casa_deepfocus.core.outside import OutsideSource, Patterns, find_outside, refine_outside
from casa_deepfocus.core.psf import gaussian_transform, place_psf
from casa_deepfocus.pipeline.joint import refine, renew_noise
from casa_deepfocus.pipeline.state import MIN_LINE_CHANNELS, Log, Search

CHANGE = 0.25
"""Sidelobes that change by less [sigma of the integrated image] need no new fit of the sources inside."""

ALTERNATIONS = 2
"""How often the sources outside and those inside are fitted in turn after a round."""

UNKNOWN_MARGIN = 1.25
"""How much higher the sidelobes may be where they are not known than their highest where they are."""

NODES = 32
"""Channels whose PSFs are averaged, at most."""

MOST_SOURCES = 3
"""Sources outside that are subtracted at most: each further one is fitted to what the others leave."""

MOST_LOOKS = 2
"""How often the residual is searched in vain: before anything is subtracted, and after the brightest are."""


class Outside:
    """The sources outside of the image, and what of the data is theirs.

    `search.fit.data` is the data without `model`, so that every step that follows sees only the sources inside.

    Parameters
    ----------
    search : Search
    log : Log
    sidelobes : bool, whether the PSF that was measured has any: without them there is nothing to look for

    Attributes
    ----------
    sources : list of OutsideSource, `level` [Jy] and `slope` [Jy per channel] apparent
    model : (nchan, ny, nx) float32 [Jy/beam], their sidelobes where these are known; None without sources
    """

    def __init__(self, search: Search, log: Log, *, sidelobes: bool) -> None:
        self.search = search
        self.log = log
        self.sources: list[OutsideSource] = []
        self.model: NDArray[np.float32] | None = None
        self._vain = 0
        # A continuum that was subtracted pixel by pixel has taken these sidelobes with it.
        self._wanted = sidelobes and search.options.mode != "line"

    @cached_property
    def _patterns(self) -> Patterns:
        """The patterns of the mean PSF over the channels; a few of them do, as it changes smoothly."""
        cube, weights = self.search.cube, inverse_variance(self.search.sigma)
        grid, used = self.search.imager.grid, np.flatnonzero(weights)
        size = (min(cube.psf.shape[1], grid[0]), min(cube.psf.shape[2], grid[1]))
        number = min(len(used), NODES) if len(cube.psf) > 1 else 1
        nodes = used[((np.arange(number) + 0.5) / number * len(used)).astype(int)]
        psf = sum(weights[node] * place_psf(self.search.imager.plane(node), size) for node in nodes)
        known = np.asarray(np.isfinite(cube.data).any(axis=0))
        return Patterns(np.fft.fftshift(psf / weights[nodes].sum()), known, self.search.beam)

    @property
    def _scale(self) -> float:
        """Sigma of the integrated image [Jy/beam]."""
        return 1.0 / float(np.sqrt(inverse_variance(self.search.sigma).sum()))

    def _pattern_image(self) -> NDArray[np.float32]:
        """The same where the sidelobes are the PSF's own: not divided by the map of the noise."""
        image, sidelobes = self._image(), self.search.sidelobes
        return image if sidelobes is None else image * sidelobes

    def _image(self) -> NDArray[np.float32]:
        """(ny, nx) the integrated residual [sigma], 0 where blank."""
        weights = (inverse_variance(self.search.sigma) * self._scale).astype(np.float32)
        image = np.zeros(self.search.cube.shape, np.float32)
        for weight, plane in zip(weights, self.search.fit.residual, strict=True):
            image += weight * blank_to_zero(plane)
        return image

    def look(self) -> bool:
        """Look for sources outside in the residual, and subtract what is found. True if anything was."""
        if not self._wanted or self._vain >= MOST_LOOKS or len(self.sources) >= MOST_SOURCES:
            return False
        found = find_outside(self._pattern_image(), self._patterns, most=MOST_SOURCES - len(self.sources))
        for source in found:
            flux = source.level * self._scale * self.search.unit
            self.log(
                f"a source outside the image at {self._where(source)}, {flux:.3g} Jy apparent, explains "
                f"sidelobes of up to {source.level * source.highest:.1f} sigma: it was subtracted"
                f"{self._share(source)}"
            )
            source.level *= self._scale
        self.sources += found
        if found:
            self._subtract()
            # In each channel its sidelobes looked like noise.
            renew_noise(self.search)
        else:
            self._vain += 1
        return bool(found)

    def renew(self) -> bool:
        """Fit the sources outside and inside in turn, and look for further ones. True when more were found."""
        for _ in range(ALTERNATIONS):
            if not self._refit():
                break
            refine(self.search, [])
        more, dropped = self.look(), self._drop_unknown()
        if more or dropped:
            refine(self.search, [])
        return more

    def _refit(self) -> bool:
        """Fit the sources outside to the residual of those inside. True when their sidelobes have changed."""
        if not self.sources:
            return False
        rest, change = self._pattern_image(), 0.0
        for source in self.sources:
            before = self._pattern(source)
            self._fit_slope(source)
            refine_outside(source, rest + before, self._patterns)
            source.level *= self._scale
            step = self._pattern(source) - before
            rest -= step
            change = max(change, float(np.abs(step).max()))
        if change < CHANGE:
            return False
        self._subtract()
        return True

    def _pattern(self, source: OutsideSource) -> NDArray[np.float32]:
        """(ny, nx) sidelobes of a source on the integrated image [sigma]."""
        return np.float32(source.level / self._scale) * self._patterns.near(source.x, source.y)[0]

    def _fit_slope(self, source: OutsideSource) -> None:
        """What is left of a source's slope, from the amplitude of its pattern in each channel of the residual."""
        residual = self.search.fit.residual
        if len(residual) < MIN_LINE_CHANNELS:
            return
        pattern = self._patterns.near(source.x, source.y)[0]
        if self.search.sidelobes is not None:
            pattern = pattern / self.search.sidelobes
        amplitude = np.tensordot(blank_to_zero(residual), pattern, axes=((1, 2), (0, 1))) / float((pattern**2).sum())
        weights = inverse_variance(self.search.sigma)
        chan = np.arange(len(weights)) - 0.5 * (len(weights) - 1)
        centred = chan - (weights * chan).sum() / weights.sum()
        slope = float((weights * centred * amplitude).sum() / (weights * centred**2).sum())
        source.slope += slope
        # The level is that of the band's middle, and the mean over the channels stays as it was.
        source.level -= slope * float((weights * chan).sum() / weights.sum())

    def _subtract(self) -> None:
        """Make the model anew and take it off the data and the residual."""
        fit, imager = self.search.fit, self.search.imager
        model = np.zeros_like(fit.data)
        for source in self.sources:
            part = np.zeros_like(fit.data)
            transform = gaussian_transform(imager.grid, source.x, source.y, (0.0, 0.0, 0.0))
            # Where the data are divided by a map, so is a source; outside of the image by that of its nearest pixel.
            flux = source.spectrum(len(part)) / self._divided(source)
            imager.subtract(part, transform[None], -flux[None], [(source.x, source.y)])
            source.known = self._patterns.reach(source.x, source.y)
            model += np.where(source.known, part, np.float32(0))
        change = model if self.model is None else model - self.model
        fit.data -= change
        fit.residual -= change
        self.model = model

    def _divided(self, source: OutsideSource) -> float:
        """What the flux of a source is divided by in the data, over what it is in `level`."""
        return 1.0 if self.search.sidelobes is None else self.search.noise_at(source.x, source.y)

    def above_unknown(self, blobs: Sequence[Blob], maps: Sequence[DetectionMap]) -> list[Blob]:
        """Blobs that are not what a source outside may leave where its sidelobes are not known."""
        if not self.sources:
            return list(blobs)
        # Maps are in units of their own rms, sidelobes and all.
        scale = float(np.abs(self._image()).max())
        kept = []
        for blob in blobs:
            detection = maps[blob.map_index]
            snr = blob.snr * scale / float(np.nanmax(np.abs(detection.image)))
            if detection.kind != "integrated" or snr >= self._unknown_level(blob.x, blob.y):
                kept.append(blob)
        return kept

    def _drop_unknown(self) -> bool:
        """Drop continua that may be such sidelobes, whichever way they came in. True if any was."""
        low = [
            c
            for c in self.search.components
            if not c.has_line and c.snr_cont < self._unknown_level(c.x, c.y)
        ]  # fmt: skip
        self.search.components = [c for c in self.search.components if c not in low]
        self.search.refused += low
        return bool(low)

    def _unknown_level(self, x: float, y: float) -> float:
        """SNR of a continuum that sidelobes of sources outside, where they are not known, do not explain."""
        ny, nx = self.search.cube.shape
        row, column = min(max(round(y), 0), ny - 1), min(max(round(x), 0), nx - 1)
        high = [source.level / self._scale * source.highest for source in self.sources if not source.known[row, column]]
        sidelobes = self.search.sidelobes
        return UNKNOWN_MARGIN * sum(high) / (1.0 if sidelobes is None else float(sidelobes[row, column]))

    def summary(self) -> str:
        """Places and flux densities, for the catalogue's meta; empty without sources."""
        return "; ".join(f"{self._where(source)} {source.level * self.search.unit:.4g} Jy" for source in self.sources)

    def _where(self, source: OutsideSource) -> str:
        ra, dec = sky_position(self.search.cube, source.x, source.y)
        if not np.isfinite(ra):
            return f"pixel ({source.x:.1f}, {source.y:.1f})"
        return str(SkyCoord(ra, dec, unit="deg").to_string("hmsdms", precision=2))

    def _share(self, source: OutsideSource) -> str:
        known = np.isfinite(self.search.cube.data).any(axis=0)
        share = float(source.known[known].mean())
        return "" if share > 0.995 else f" from {100 * share:.0f} per cent of the image, where the PSF reaches"
