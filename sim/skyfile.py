"""Sources in sky coordinates, and YAML files of them, to be put into data that exist already.

    - ra: 15h21m57.0s          # or degrees
      dec: 5.07                # [deg], or +05d04m12s
      fwhm_maj: 40             # [arcsec]; leave it out for a point
      fwhm_min: 25
      pa: 30                   # [deg], north through east
      continuum: 0.01          # [Jy] at freq0
      alpha: -0.7
      freq0: 1.413e9           # [Hz]; the middle of the data's band by default
      lines:                   # negative peaks absorb
        - {freq: 1.4135e9, fwhm: 60, peak: 0.02}     # [Hz], [km/s], [Jy]
      rotation: {velocity: 120, turnover: 10, dispersion: 15, inclination: 60}
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.errors import DataError, ParameterError
from sim.discs import Rotation
from sim.sky import Line, Source, disc


@dataclass(frozen=True)
class SkyLine:
    """A Gaussian line: freq [Hz, in the data's frame], fwhm [km/s, radio], peak [Jy], over the whole source."""

    freq: float
    fwhm: float
    peak: float


@dataclass(frozen=True)
class SkyRotation:
    """A rotating disc, see `sim.discs.Rotation`.

    Attributes
    ----------
    velocity : float [km/s], positive where the end of the major axis at the position angle recedes
    turnover : float [arcsec]
    dispersion : float [km/s], FWHM
    inclination : float [deg]
    """

    velocity: float
    turnover: float
    dispersion: float
    inclination: float


@dataclass(frozen=True)
class SkySource:
    """A source by its place on the sky; `sim.sky.Source` is the same on pixels and channels.

    Attributes
    ----------
    ra, dec : float [deg], ICRS
    fwhm_maj, fwhm_min : float [arcsec], intrinsic; both 0 for a point. A disc has its `fwhm_min` from its inclination
    pa : float [deg], north through east
    continuum : float [Jy], at `freq0`
    alpha : float, spectral index
    freq0 : float or None [Hz]; None is the middle of the data's band
    lines : tuple of SkyLine; those of a disc have the width that its rotation gives them, and `fwhm` is not used
    rotation : SkyRotation or None
    """

    ra: float
    dec: float
    fwhm_maj: float = 0.0
    fwhm_min: float = 0.0
    pa: float = 0.0
    continuum: float = 0.0
    alpha: float = 0.0
    freq0: float | None = None
    lines: tuple[SkyLine, ...] = ()
    rotation: SkyRotation | None = None

    def on_pixels(self, x: float, y: float, cell: float, freq: ArrayLike) -> Source:
        """The source on an image's pixels and channels.

        Parameters
        ----------
        x, y : float [pixel], where its right ascension and declination are
        cell : float [arcsec]
        freq : (nchan,) [Hz], evenly spaced, rising or falling
        """
        nu = np.asarray(freq, dtype=float)
        width = (nu[-1] - nu[0]) / (len(nu) - 1) if len(nu) > 1 else nu[0]
        middle = 0.5 * (nu[0] + nu[-1])
        continuum = self.continuum * (middle / (self.freq0 or middle)) ** self.alpha
        places = [float((line.freq - nu[0]) / width) for line in self.lines]
        if self.rotation is not None:
            scale = (self.lines[0].freq if self.lines else middle) / C_KMS / abs(width)
            # What recedes is seen at lower frequencies.
            rotation = Rotation(
                -float(np.sign(width)) * self.rotation.velocity * scale, self.rotation.turnover / cell,
                self.rotation.dispersion * scale, self.rotation.inclination,
            )  # fmt: skip
            first = {"line": self.lines[0].peak, "chan": places[0]} if self.lines else {}
            more = tuple((place, line.peak) for place, line in zip(places[1:], self.lines[1:], strict=True))
            return disc(
                x, y, self.fwhm_maj / cell, self.pa, rotation, continuum=continuum, alpha=self.alpha,
                extra_lines=more, **first,
            )  # fmt: skip
        lines = [
            Line(place, line.fwhm / C_KMS * line.freq / abs(width), line.peak)
            for place, line in zip(places, self.lines, strict=True)
        ]
        first = {"line": lines[0].peak, "chan": lines[0].chan, "line_fwhm": lines[0].fwhm} if lines else {}
        return Source(
            x, y, self.fwhm_maj / cell, self.fwhm_min / cell, self.pa, continuum, self.alpha,
            extra_lines=tuple(lines[1:]), **first,
        )  # fmt: skip


def read_sources(path: Path) -> list[SkySource]:
    """The sources of a YAML file.

    Raises
    ------
    DataError
        When the file cannot be read, or does not hold a list of sources.
    ParameterError
        When a source has an unknown key, lacks one, or has a value that is no number.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML ({error})") from error
    if not isinstance(content, list) or not content:
        raise DataError(f"{path} holds no list of sources; see the example in sim/skyfile.py")
    return [_source(entry, f"{path}, source {number}") for number, entry in enumerate(content, start=1)]


def _source(entry: Any, where: str) -> SkySource:
    values = _values(SkySource, entry, where)
    lines = values.pop("lines", None) or ()
    rotation = values.pop("rotation", None)
    if not isinstance(lines, Sequence) or isinstance(lines, str):
        raise ParameterError("lines", lines, f"no list ({where})")
    return SkySource(
        **{key: _number(key, value, where) for key, value in values.items()},
        lines=tuple(_plain(SkyLine, line, f"{where}, line {number}") for number, line in enumerate(lines, start=1)),
        rotation=_plain(SkyRotation, rotation, f"{where}, rotation") if rotation is not None else None,
    )


def _plain(kind: Any, entry: Any, where: str) -> Any:
    return kind(**{key: _number(key, value, where) for key, value in _values(kind, entry, where).items()})


def _values(kind: Any, entry: Any, where: str) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    if not isinstance(entry, Mapping):
        raise ParameterError(where, entry, "not a group of key: value", f"give {', '.join(names)}")
    for key in entry:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            raise ParameterError(
                str(key), entry[key], f"no such key ({where})", f"did you mean {near[0]}?" if near else ", ".join(names)
            )
    for field in fields(kind):
        if field.default is MISSING and field.name not in entry:
            raise ParameterError(field.name, None, f"missing ({where})", "add it")
    return dict(entry)


def _number(key: str, value: Any, where: str) -> float | None:
    """A number; right ascension and declination may be sexagesimal with their units."""
    if value is None and key == "freq0":
        return None
    try:
        if key in ("ra", "dec") and isinstance(value, str):
            from astropy.coordinates import Angle

            return float(Angle(value).deg)
        # YAML 1.1 takes 1.4e9, without a sign, for text.
        return float(value)
    except (TypeError, ValueError) as error:
        raise ParameterError(key, value, f"not a number ({where})", str(error)) from error
