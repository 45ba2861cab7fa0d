"""The map of the noise during a search, measured again where sources no longer count as noise.

The first map (`pipeline.intake`) is measured with the sources in the image. In an image without channels their
sidelobes are in it, which hide what is faint beside a bright source; on the residual they are gone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.noisemap import NoiseMap, measure_noise_map
from casa_deepfocus.pipeline.joint import fit_all, measured_noise
from casa_deepfocus.pipeline.outside import Outside
from casa_deepfocus.pipeline.state import Log, Search

CHANGE = 0.1
"""Change of ln M anywhere below which a map stays as it is: that of an SNR of 5 is then half of its own error."""

MOST_RENEWALS = 3
"""How often a map is exchanged for another at most."""

SHOWN = (5.0, 95.0)
"""Percentiles of the map that the log names."""


class Flatness:
    """Renews the map of a search.

    Parameters
    ----------
    search : Search
    outside : Outside
    log : Log
    """

    def __init__(self, search: Search, outside: Outside, log: Log) -> None:
        self.search, self.outside, self.log = search, outside, log
        self._left = MOST_RENEWALS if search.options.noise_map else 0

    def renew(self) -> bool:
        """Measure the map on the residual. True where it has changed: data, fluxes and sources are those of the new."""
        search = self.search
        if not self._left or search.assumed:
            return False
        old = search.noise_map
        fresh = measure_noise_map(
            search.fit.residual, search.imager.plane(search.cube.nchan // 2), search.beam,
            times=None if old is None else old.image, residual=True,
            divided=search.cube.corrected,
        )  # fmt: skip
        ratio = _image(old) / _image(fresh)
        if float(np.abs(np.log(ratio)).max()) < CHANGE:
            return False
        self._left -= 1
        self._exchange(fresh, np.broadcast_to(ratio, search.cube.shape))
        return True

    def _exchange(self, fresh: NoiseMap | None, ratio: NDArray[np.float32]) -> None:
        search = self.search
        old, search.noise_map = search.noise_map, fresh
        search.imager.modulation = search.modulation
        search.fit.data *= ratio
        if self.outside.model is not None:
            self.outside.model *= ratio
        for component in search.components:
            factor = _at(old, component.x, component.y) / _at(fresh, component.x, component.y)
            component.amp, component.cont, component.slope = (
                factor * value for value in (component.amp, component.cont, component.slope)
            )
        search.fit.update_residual(search.components)
        search.sigma = measured_noise(search)
        search.fit.set_noise(search.sigma)
        tell_map(fresh, self.log)
        fit_all(search)
        search.measure_floor()


def tell_map(noise_map: NoiseMap | None, log: Log) -> None:
    """Say how the noise varies."""
    if noise_map is None:
        log("the noise is flat over the image")
        return
    low, high = np.percentile(noise_map.image, SHOWN)
    log(
        f"the noise varies over the image: {low:.2f} to {high:.2f} times its median over nine tenths of it. What "
        "counts is the noise at the place of a source"
    )


def _image(noise_map: NoiseMap | None) -> NDArray[np.float32]:
    return np.ones((1, 1), np.float32) if noise_map is None else noise_map.image


def _at(noise_map: NoiseMap | None, x: float, y: float) -> float:
    return 1.0 if noise_map is None else noise_map.at(x, y)
