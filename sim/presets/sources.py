"""The sky of a random field: places, shapes, lines and brightness of its sources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_AREA
from casa_deepfocus.errors import ParameterError
from sim.beams import airy
from sim.coverage import ARCSEC, Coverage, Grid
from sim.discs import Rotation, profile_width
from sim.presets.draws import Draws
from sim.presets.observation import pb_radius
from sim.response import Response, matched_filter_snr, pb_at
from sim.sky import Line, Source, disc

TRIES = 20
"""How often a companion or a further line looks for a place before it is left out."""

EXTRA_CLEARANCE = 2.0
"""Least distance of a source's lines [line FWHM]."""


@dataclass(frozen=True)
class Sky:
    """What the sources are drawn for.

    Attributes
    ----------
    resp, coverage, grid : Response, Coverage, Grid
    noise : float [Jy/beam], thermal, of a channel
    """

    resp: Response
    coverage: Coverage
    grid: Grid
    noise: float

    @property
    def middle(self) -> int:
        """Pixel of the phase centre, along x and y."""
        return self.grid.npix // 2

    @cached_property
    def freq(self) -> float:
        """Middle of the band [Hz]."""
        return float(self.grid.freq().mean())

    @cached_property
    def beam(self) -> float:
        """Geometric-mean FWHM of the beam [pixel], middle of the band."""
        sxx, syy, sxy = self.resp.middle_beam()
        return float(FWHM_PER_SIGMA * (sxx * syy - sxy**2) ** 0.25)

    def inside(self, x: float, y: float) -> bool:
        """Whether a place lies in the image."""
        return 0.0 <= x <= self.grid.npix - 1 and 0.0 <= y <= self.grid.npix - 1

    def pb(self, x: float, y: float) -> float:
        """Primary beam at a pixel, middle of the band."""
        radius = np.hypot(x - self.middle, y - self.middle) * self.grid.cell * ARCSEC
        return float(airy(radius, self.freq, self.coverage.diameter()))

    def band_peak(self, source: Source) -> float:
        """Peak [Jy/beam] of a source in the noise-free image averaged over the band."""
        gain = self.resp.channels(pb_at(self.resp.pb, source)) * self.resp.channels(
            self.resp.overlap(source, squared=False)
        )
        return float((gain * source.spectrum(self.grid.freq())).mean())


@dataclass(frozen=True)
class Drawn:
    """A source before it has its brightness: line and continuum of 1 where it has them.

    Attributes
    ----------
    index : int, of its random numbers
    kind : str, as `sources.kind`
    source : Source; further lines have their peaks in units of the main one's
    """

    index: int
    kind: str
    source: Source

    def lit(self, continuum: float, line: float) -> Source:
        """With its flux densities [Jy]; those that its kind has not stay 0."""
        extra = tuple(replace(part, peak=part.peak * line) for part in self.source.extra_lines)
        return replace(
            self.source,
            continuum=0.0 if self.kind == "line" else continuum,
            line=0.0 if self.kind == "continuum" else line,
            extra_lines=() if self.kind == "continuum" else extra,
        )


def draw_sources(draws: Draws, sky: Sky) -> tuple[Source, ...]:
    """All sources of a field, the central one first where there is one."""
    central = bool(draws.scalar("sources.central"))
    number = int(draws.number("sources.number")) + central
    drawn = []
    for index in range(number):
        place = _central(draws, sky) if central and index == 0 else _place(draws, sky, index)
        drawn.append(_unlit(draws, sky, index, place, _line_centre(draws, sky, index)))
    for first in drawn[:number]:
        if draws.chance("blends.share", first.index):
            drawn += _companion(draws, sky, first, number + first.index)
    if draws.preset.given("brightness.amplitude"):
        return _by_amplitude(draws, drawn)
    return tuple(_by_snr(draws, sky, one) for one in drawn)


def _central(draws: Draws, sky: Sky) -> tuple[float, float]:
    dx, dy = draws.stream("sources.centre").uniform(-0.5, 0.5, 2)
    return float(sky.middle + dx), float(sky.middle + dy)


def _place(draws: Draws, sky: Sky, index: int) -> tuple[float, float]:
    """A place in the image: anywhere in the primary beam, or at its edge."""
    if draws.chance("sources.edge_share", index):
        rng = draws.stream("sources.edge_angle", index)
        radius = pb_radius(draws.number("sources.edge_pb", index), sky.freq, sky.coverage.diameter())
        radius /= sky.grid.cell * ARCSEC
        for _ in range(TRIES):
            angle = rng.uniform(0.0, 2.0 * np.pi)
            x, y = sky.middle + radius * np.cos(angle), sky.middle + radius * np.sin(angle)
            if sky.inside(x, y):
                return float(x), float(y)
    scale = sky.grid.npix - 1.0 if draws.word("sources.position_unit") == "image" else 1.0
    lowest = draws.number("sources.min_pb", index)

    def fits(x: float, y: float) -> bool:
        return sky.inside(scale * x, scale * y) and sky.pb(scale * x, scale * y) >= lowest

    problem = f"no place in the {sky.grid.npix} pixel image has a primary beam of {lowest:g}"
    x, y = draws.until(("sources.position", "sources.position"), fits, problem, index)
    return scale * x, scale * y


def _companion(draws: Draws, sky: Sky, first: Drawn, index: int) -> list[Drawn]:
    """A source close to another one, on the sky and in frequency; none where the image has no room for it."""
    rng = draws.stream("blends.direction", index)
    distance = draws.number("blends.separation", index) * sky.beam
    offset = draws.number("blends.offset", index) * first.source.line_fwhm
    chan = first.source.chan + offset * (1 if rng.random() < 0.5 else -1)
    if not 0 <= chan <= sky.grid.nchan - 1:
        chan = float(np.clip(2.0 * first.source.chan - chan, 0, sky.grid.nchan - 1))
    for _ in range(TRIES):
        angle = rng.uniform(0.0, 2.0 * np.pi)
        x, y = first.source.x + distance * np.cos(angle), first.source.y + distance * np.sin(angle)
        if sky.inside(x, y):
            return [_unlit(draws, sky, index, (float(x), float(y)), chan)]
    return []


def _line_centre(draws: Draws, sky: Sky, index: int, key: str = "lines.position") -> float:
    """A channel."""
    scale = sky.grid.nchan - 1.0 if draws.word("lines.position_unit") == "band" else 1.0
    return scale * float(str(draws.preset["lines.position"].draw(draws.stream(key, index))))


def _unlit(draws: Draws, sky: Sky, index: int, place: tuple[float, float], chan: float) -> Drawn:
    """A source at a place and a channel; kind, shape, width and further lines are drawn."""
    kind, shape = draws.word("sources.kind", index), draws.word("sources.shape", index)
    widest = draws.number("lines.max_fwhm") * sky.grid.nchan
    (width,) = draws.until(
        ("lines.fwhm",), lambda value: value <= widest, f"no line fits lines.max_fwhm, {widest:g} channels", index
    )
    extra = _extra_lines(draws, sky, index, chan, width)
    alpha = draws.number("sources.alpha", index)
    if shape == "disc":
        major = _size(draws, sky, index)
        pa = draws.number("sources.pa", index) % 180.0
        rotation = _rotation(draws, index, major, pa, width)
        source = disc(
            *place, major, pa, rotation, continuum=1.0, alpha=alpha, line=1.0, chan=chan,
            extra_lines=tuple((line.chan, line.peak) for line in extra),
        )  # fmt: skip
        return Drawn(index, kind, source)
    major, minor, pa = (0.0, 0.0, 0.0) if shape == "point" else _ellipse(draws, sky, index)
    return Drawn(index, kind, Source(*place, major, minor, pa, 1.0, alpha, 1.0, chan, width, extra))


def _size(draws: Draws, sky: Sky, index: int) -> float:
    """The next size of a source, as FWHM [pixel]."""
    unit = {"fwhm": 1.0, "sigma": FWHM_PER_SIGMA, "beam": sky.beam}[draws.word("sources.size_unit")]
    return unit * draws.number("sources.size", index)


def _ellipse(draws: Draws, sky: Sky, index: int) -> tuple[float, float, float]:
    """FWHM [pixel] of a Gaussian and its position angle [deg]."""
    first = _size(draws, sky, index)
    if draws.preset.given("sources.axis_ratio"):
        second = first * draws.number("sources.axis_ratio", index)
    else:
        second = _size(draws, sky, index)
    pa = draws.number("sources.pa", index)
    # The angle is the first axis's; the major axis may be the other one.
    return (first, second, pa % 180.0) if first >= second else (second, first, (pa + 90.0) % 180.0)


def _rotation(draws: Draws, index: int, major: float, pa: float, width: float) -> Rotation:
    """Rotation of a disc whose integrated profile is `width` channels wide at half maximum."""
    inclination = draws.number("discs.inclination", index)
    turnover = draws.number("discs.turnover", index) * major
    unit = Rotation(1.0, turnover, draws.number("discs.dispersion", index), inclination)
    # Widths are proportional to velocities.
    scale = width / profile_width(major, pa, unit)
    sense = 1.0 if draws.stream("discs.sense", index).random() < 0.5 else -1.0
    return replace(unit, velocity=sense * scale, dispersion=unit.dispersion * scale)


def _extra_lines(draws: Draws, sky: Sky, index: int, chan: float, width: float) -> tuple[Line, ...]:
    """Further lines of the same width, clear of the main one and of each other; peaks in units of the main one's."""
    taken = [chan]
    for _ in range(int(draws.number("lines.extra", index))):
        for _ in range(TRIES):
            place = _line_centre(draws, sky, index, "lines.extra_position")
            if min(abs(place - other) for other in taken) > EXTRA_CLEARANCE * width:
                taken.append(place)
                break
    return tuple(Line(place, width, draws.number("lines.extra_ratio", index)) for place in taken[1:])


def _by_snr(draws: Draws, sky: Sky, one: Drawn) -> Source:
    """With the flux densities that have the drawn matched-filter SNRs in the thermal noise, before any flagging."""
    alone = replace(one.source, extra_lines=())
    line, continuum = matched_filter_snr(alone, sky.resp, sky.grid.freq(), sky.noise)
    if line <= 0.0 or continuum <= 0.0:
        raise ParameterError("sources", one.source, "cannot be seen in this band", "keep lines.position inside it")
    flux = draws.number("brightness.line_snr", one.index) / line
    if one.kind == "absorption":
        return one.lit(flux / draws.number("lines.absorption_depth", one.index), -flux)
    return one.lit(draws.number("brightness.continuum_snr", one.index) / continuum, flux)


def _by_amplitude(draws: Draws, drawn: list[Drawn]) -> tuple[Source, ...]:
    """With the paper's amplitudes (Table 1), the first source's peak scaled to `brightness.peak` (Table 2)."""
    sources: list[Source] = []
    unit, top = 0.0, np.inf
    for one in drawn:
        amplitude = draws.number("brightness.amplitude", one.index)
        line = draws.number("brightness.line_amplitude", one.index)
        if one.kind == "absorption":
            line = -draws.number("lines.absorption_depth", one.index)
        peak = amplitude * {"line": line, "both": 1.0 + line}.get(one.kind, 1.0)
        if not sources:
            unit, top = draws.number("brightness.peak") / peak, peak
        # "Lower or equal to that of the central source" (section 3).
        amplitude *= min(1.0, top / peak)
        area = max(GAUSSIAN_AREA * one.source.fwhm_maj * one.source.fwhm_min, 1.0)
        continuum = amplitude * unit * area
        sources.append(one.lit(continuum, line * continuum))
    return tuple(sources)
