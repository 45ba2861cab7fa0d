"""What a run hands back: a dictionary that prints as the table of its sources."""

from __future__ import annotations

import html
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.products import tables

PLAIN = 160
"""Characters in a line of the table where there is no screen."""


class Spectrum(NamedTuple):
    """The spectrum of a source, as observed (not corrected for the primary beam).

    Attributes
    ----------
    freq : (nchan,) float64 [Hz]
    velocity : (nchan,) float64 [km/s], NaN where the rest frequency is not known
    flux, model : (nchan,) float32 [Jy]
    """

    freq: NDArray[np.float64]
    velocity: NDArray[np.float64]
    flux: NDArray[np.float32]
    model: NDArray[np.float32]


class Found(dict[str, Any]):
    """The result of a run: a plain dictionary, with the tables and arrays beside it.

    The dictionary holds numbers, texts, lists and dictionaries only, so that it can be written as JSON. It prints as
    the table of sources, at the prompt and in notebooks.

    Attributes
    ----------
    catalogue : astropy.table.Table
        The sources: the catalogue of one image, or of several targets their sources with the column `target`.
    lines : astropy.table.Table or None
        Of several targets, their lines; of one image they are in the catalogue.
    spectra : dict
        Name of a source -> `Spectrum`; of one image.
    maps : dict
        Name -> array: `integrated` (ny, nx) [sigma], `probability` (ny, nx), `noise` (ny, nx) [Jy/beam]. What was
        given as arrays has `mask`, `model` and `residual` (nchan, ny, nx) as well; of files they are products.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        catalogue: Table | None = None,
        lines: Table | None = None,
        spectra: Mapping[str, Spectrum] | None = None,
        maps: Mapping[str, NDArray] | None = None,
        text: Sequence[str] = (),
    ) -> None:
        super().__init__(values)
        self.catalogue = catalogue
        self.lines = lines
        self.spectra = dict(spectra or {})
        self.maps = dict(maps or {})
        self._text = tuple(text)

    def table(self, width: int | None = None) -> str:
        """The table of sources as text, of lines of at most `width` characters."""
        if self._text or self.catalogue is None:
            return "\n".join(self._text)
        return "\n".join([*tables.summary(self.catalogue, width=width), *tables.flag_words(self.catalogue)])

    def _ending(self) -> list[str]:
        """The lines below the table."""
        counts, timings = self.get("counts", {}), self.get("timings", {})
        number = counts.get("sources", 0)
        said = f"{number} source{'' if number == 1 else 's'}" if not self._text else ""
        if said and "total" in timings:
            said += f" in {timings['total']:.1f} s"
        page = self.get("products", {}).get("html", "") if not self._text else ""
        return [text for text in (said, f"report: {page}" if page else "") if text]

    def show(self) -> None:
        """Print the table where nobody else does: at a prompt of IPython and in a notebook a result shows itself."""
        if sys.stdout is not None and not _echoes():
            sys.stdout.write(f"{self!r}\n")
            sys.stdout.flush()

    def __repr__(self) -> str:
        screen = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else PLAIN
        return "\n".join([self.table(screen), *self._ending()])

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        if self._text or self.catalogue is None:
            return f"<pre>{html.escape(repr(self))}</pre>"
        rows = list(self.catalogue)
        shown = [(c.head, c.unit, [c.value(row) for row in rows]) for c in tables.COLUMNS]
        shown = [item for item in shown if not item[2] or any(cell not in ("-", "") for cell in item[2])]
        heads = "".join(f'<th scope="col">{html.escape(f"{head} {unit}".strip())}</th>' for head, unit, _ in shown)
        body = ""
        for at in range(len(rows)):
            texts = [html.escape(cells[at]).replace("+-", "&#177;") for _, _, cells in shown]
            body += "<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>"
        ending = html.escape("; ".join([*self._ending(), *tables.flag_words(self.catalogue)]))
        return f"<table><caption>{ending}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _echoes() -> bool:
    """Whether this is an interactive prompt of IPython (CASA's is one), or a notebook."""
    module = sys.modules.get("IPython")
    if module is None or module.get_ipython() is None:
        return False
    # `casa -c` runs statements without showing what they return.
    return not getattr(getattr(sys.modules.get("casashell"), "flags", None), "execute", None)
