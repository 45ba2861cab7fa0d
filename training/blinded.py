"""Networks with some of them blinded: a constant in the place of what they say, to see what is lost without them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.errors import ParameterError
from casa_deepfocus.pipeline import Networks

KNOWS_NOTHING: dict[str, tuple[float, ...]] = {
    "blobs_finder": (1.0,),
    "deep_gru": (0.0,),
    "fwhm_maj": (0.5,),
    "fwhm_min": (0.5,),
    "pa": (0.0, 1.0),
    "flux": (0.0,),
}
"""What each network says when it is blind: Blobs Finder that everything may be a source, Deep GRU that there is no
line, the others a round source of half a beam [beam], north [sin 2PA, cos 2PA], and the flux of a point [log10 of flux
over the stamp's peak]."""


class Blinded:
    """Networks of which some are blind.

    Parameters
    ----------
    networks : Networks
    without : collection of str, names of those that are blinded

    Raises
    ------
    ParameterError
        A name is not that of a network.
    """

    def __init__(self, networks: Networks, without: Collection[str]) -> None:
        self.info: dict[str, Any] = networks.info
        for name in without:
            if name not in KNOWS_NOTHING:
                raise ParameterError("--without", name, "no such network", f"There are {', '.join(KNOWS_NOTHING)}")
        for name in KNOWS_NOTHING:
            setattr(self, name, _Blind(name) if name in without else getattr(networks, name))


class _Blind:
    """A network that says the same of everything."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, batch: NDArray) -> NDArray[np.float32]:
        answer = np.array(KNOWS_NOTHING[self.name], dtype=np.float32)
        if self.name == "blobs_finder":
            return np.full((len(batch), 1, *batch.shape[2:]), answer[0])
        if self.name == "deep_gru":
            return np.full(batch.shape, answer[0])
        return np.tile(answer, (len(batch), 1))
