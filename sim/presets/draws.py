"""Random numbers by the name of what is drawn, so that a new parameter leaves the others as they were."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from casa_deepfocus.errors import ParameterError
from sim.presets.schema import Preset, schema
from sim.presets.values import Scalar

ATTEMPTS = 2000
"""How often a value that does not fit is drawn again."""


class Draws:
    """The values of one field.

    Every (key, index) has a stream of its own, seeded by four integers of the field's generator, the
    checksum of the key and the index (of a source, say): values do not depend on which others are
    drawn, nor on their order. A second draw of the same (key, index) goes on in its stream.
    """

    def __init__(self, preset: Preset, rng: np.random.Generator) -> None:
        self.preset = preset
        self._root = [int(word) for word in rng.integers(0, 2**32, 4)]
        self._streams: dict[tuple[str, int], np.random.Generator] = {}

    def stream(self, key: str, index: int = 0) -> np.random.Generator:
        """The random numbers of a key; also of names that are not in the schema."""
        if (key, index) not in self._streams:
            self._streams[key, index] = self._fresh(key, index)
        return self._streams[key, index]

    def _fresh(self, key: str, index: int) -> np.random.Generator:
        seed = np.random.SeedSequence([*self._root, zlib.crc32(key.encode()), index])
        return np.random.Generator(np.random.Philox(seed))

    def scalar(self, key: str, index: int = 0) -> Scalar:
        """The next value of a parameter."""
        value = self.preset[key].draw(self.stream(key, index))
        if schema()[key].type == "integer" and isinstance(value, float):
            return round(value)
        return value

    def number(self, key: str, index: int = 0) -> float:
        """The next value of a parameter that is a number."""
        value = self.scalar(key, index)
        if value is None or isinstance(value, str):
            raise ParameterError(key, value, "a number is needed here", f"give it in {self.preset.name}")
        return float(value)

    def word(self, key: str, index: int = 0) -> str:
        """The next value of a parameter that is text."""
        return str(self.scalar(key, index))

    def chance(self, key: str, index: int = 0) -> bool:
        """Whether a share applies here: true as often as the parameter says, and the same however often asked."""
        rng = self._fresh(key, index)
        share = self.preset[key].draw(rng)
        return bool(rng.random() < float(str(share)))

    def until(
        self, keys: tuple[str, ...], fits: Callable[..., bool], problem: str, index: int = 0
    ) -> tuple[float, ...]:
        """Values of some parameters, drawn together and again until they fit.

        Raises
        ------
        ParameterError
            When none of `ATTEMPTS` draws fits.
        """
        for _ in range(ATTEMPTS):
            values = tuple(self.number(key, index) for key in keys)
            if fits(*values):
                return values
        given = tuple(str(self.preset[key]) for key in keys)
        raise ParameterError(f"{self.preset.name}: {', '.join(keys)}", given, problem, "change the preset")
