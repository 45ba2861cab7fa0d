"""Sky models: points, Gaussians and rotating exponential discs with a continuum and lines.

Every source is a sum of separable components, each a shape on the sky times a spectrum; that is
what both backends observe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE, shape_to_covariance
from casa_deepfocus.errors import ParameterError
from sim.discs import Rotation, disc_line, disc_stamp, profile_width


@dataclass(frozen=True)
class Line:
    """A Gaussian spectral line.

    Attributes
    ----------
    chan : float, channel of its centre
    fwhm : float [chan]
    peak : float [Jy], over the whole source; negative in absorption
    """

    chan: float
    fwhm: float
    peak: float

    def __post_init__(self) -> None:
        if not self.fwhm > 0.0:
            raise ParameterError("fwhm", self.fwhm, "a line's width is not positive", "give it in channels")

    @property
    def flux(self) -> float:
        """Integral [Jy chan]."""
        return self.peak * self.fwhm * GAUSSIAN_LINE

    def spectrum(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) [Jy], sampled at the channel centres."""
        return self.peak * np.exp(-0.5 * ((np.arange(nchan) - self.chan) * FWHM_PER_SIGMA / self.fwhm) ** 2)


@dataclass(frozen=True, eq=False)
class Component:
    """One shape on the sky times one spectrum.

    The shape is a Gaussian of unit flux (`covariance`, all zero for a point), or a `stamp` of pixels
    that are `pitch` image pixels wide and hold the flux that falls into them.

    Attributes
    ----------
    spectrum : (nchan,) float64 [Jy]
    x, y : float [pixel], the source's centre
    covariance : (3,) [pixel^2], or None
    stamp : (height, width) float64, or None
    pitch : float [pixel]
    """

    spectrum: NDArray[np.float64]
    x: float
    y: float
    covariance: NDArray[np.float64] | None = None
    stamp: NDArray[np.float64] | None = None
    pitch: float = 1.0

    def stamp_axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x (width,) and y (height,) [pixel] of the centres of the stamp's pixels."""
        height, width = (0, 0) if self.stamp is None else self.stamp.shape
        x, y = (np.arange(number) - number // 2 for number in (width, height))
        return self.x + self.pitch * x, self.y + self.pitch * y


@dataclass(frozen=True)
class Source:
    """One source, as the sky has it (intrinsic size, no primary beam).

    Attributes
    ----------
    x, y : float [pixel]
    fwhm_maj, fwhm_min : float [pixel]; both 0 for a point
    pa : float [deg], north through east
    continuum : float [Jy], flux density at the band centre
    alpha : float, spectral index: S ~ frequency^alpha
    line : float [Jy], flux density of the line at its centre, over the whole source; negative in absorption
    chan : float, channel of the line's centre
    line_fwhm : float [chan]
    extra_lines : tuple of Line
    rotation : Rotation or None
        An exponential disc instead of a Gaussian. The FWHM then are those of the Gaussian with its second
        moments, `line_fwhm` the full width at half maximum of the integrated profile, and `line` the height
        of the Gaussian that has this width and the line's integral. `disc` fills them in. All lines of a disc
        have the same profile and width.
    """

    x: float
    y: float
    fwhm_maj: float
    fwhm_min: float
    pa: float
    continuum: float = 0.0
    alpha: float = 0.0
    line: float = 0.0
    chan: float = 0.0
    line_fwhm: float = 1.0
    extra_lines: tuple[Line, ...] = ()
    rotation: Rotation | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.fwhm_min <= self.fwhm_maj:
            raise ParameterError("fwhm_min", self.fwhm_min, f"not between 0 and fwhm_maj={self.fwhm_maj:g}")
        if not self.line_fwhm > 0.0:
            raise ParameterError("line_fwhm", self.line_fwhm, "not positive", "give it in channels")
        if self.rotation is None:
            return
        thin = self.fwhm_maj * self.rotation.axis_ratio()
        if not (self.fwhm_maj > 0.0 and abs(self.fwhm_min - thin) <= 1e-6 * self.fwhm_maj):
            raise ParameterError(
                "fwhm_min", self.fwhm_min, f"a disc of this inclination has {thin:g}", "make it with sim.sky.disc"
            )
        if any(line.fwhm != self.line_fwhm for line in self.extra_lines):
            raise ParameterError("extra_lines", self.extra_lines, "a disc's lines all have the width line_fwhm")

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, the main one first; empty without any."""
        main = (Line(self.chan, self.line_fwhm, self.line),) if self.line else ()
        return main + self.extra_lines

    @property
    def kind(self) -> str:
        """`point`, `gaussian` or `disc`."""
        if self.rotation is not None:
            return "disc"
        return "gaussian" if self.fwhm_maj > 0.0 else "point"

    def scaled(self, factor: float) -> Source:
        """The same source with all its flux densities multiplied."""
        extra = tuple(replace(line, peak=line.peak * factor) for line in self.extra_lines)
        return replace(self, continuum=self.continuum * factor, line=self.line * factor, extra_lines=extra)

    def covariance(self) -> NDArray[np.float64]:
        """(3,) sxx, syy, sxy [pixel^2]."""
        return shape_to_covariance(self.fwhm_maj, self.fwhm_min, self.pa)

    def continuum_spectrum(self, freq: ArrayLike) -> NDArray[np.float64]:
        """Continuum [Jy] at the band's channel frequencies `freq` (nchan,) [Hz]."""
        nu = np.asarray(freq, dtype=float)
        return self.continuum * (nu / (0.5 * (nu[0] + nu[-1]))) ** self.alpha

    def line_spectrum(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) all lines [Jy] of the whole source, sampled at the channel centres."""
        total = np.zeros(nchan)
        for line in self.lines:
            if self.rotation is None:
                total += line.spectrum(nchan)
            else:
                spectra, stamps = disc_line(self.fwhm_maj, self.pa, self.rotation, line.chan, nchan)
                total += line.flux * (stamps.sum(axis=(1, 2)) @ spectra)
        return total

    def spectrum(self, freq: ArrayLike) -> NDArray[np.float64]:
        """(nchan,) total flux density [Jy]."""
        nu = np.asarray(freq, dtype=float)
        return self.continuum_spectrum(nu) + self.line_spectrum(len(nu))

    def components(self, freq: ArrayLike) -> list[Component]:
        """The separable components: one for a point or a Gaussian, several for a rotating disc.

        Parameters
        ----------
        freq : (nchan,) [Hz]
        """
        nu = np.asarray(freq, dtype=float)
        if self.rotation is None:
            return [Component(self.spectrum(nu), self.x, self.y, covariance=self.covariance())]
        shape = disc_stamp(self.fwhm_maj, self.pa, self.rotation)
        parts = []
        if self.continuum:
            parts.append(Component(self.continuum_spectrum(nu), self.x, self.y, None, shape.image(), shape.pitch))
        for line in self.lines:
            spectra, stamps = disc_line(self.fwhm_maj, self.pa, self.rotation, line.chan, len(nu))
            parts += [
                Component(line.flux * spectrum, self.x, self.y, None, stamp, shape.pitch)
                for spectrum, stamp in zip(spectra, stamps, strict=True)
            ]
        return parts


def disc(
    x: float,
    y: float,
    fwhm_maj: float,
    pa: float,
    rotation: Rotation,
    *,
    continuum: float = 0.0,
    alpha: float = 0.0,
    line: float = 0.0,
    chan: float = 0.0,
    extra_lines: tuple[tuple[float, float], ...] = (),
) -> Source:
    """A rotating disc, with the `fwhm_min` and `line_fwhm` that follow.

    Parameters
    ----------
    fwhm_maj : float [pixel], 4.0786 scale lengths
    rotation : Rotation
    extra_lines : tuple of (channel, peak [Jy])
    x, y, pa, continuum, alpha, line, chan : see `Source`
    """
    width = profile_width(fwhm_maj, pa, rotation)
    extra = tuple(Line(place, width, peak) for place, peak in extra_lines)
    thin = fwhm_maj * rotation.axis_ratio()
    return Source(x, y, fwhm_maj, thin, pa, continuum, alpha, line, chan, width, extra, rotation)


def blend(source: Source, separation: float, beam: float, rng: np.random.Generator) -> Source:
    """The same source moved by a chosen separation into a random direction.

    Parameters
    ----------
    source : Source
    separation : float [beams]
    beam : float [pixel], geometric mean FWHM of the beam
    rng : numpy Generator
    """
    angle = rng.uniform(0.0, 2.0 * np.pi)
    step = separation * beam
    return replace(source, x=float(source.x + step * np.cos(angle)), y=float(source.y + step * np.sin(angle)))
