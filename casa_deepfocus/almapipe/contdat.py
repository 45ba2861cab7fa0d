"""cont.dat: ranges of frequency without lines, by source and window, as the pipeline keeps them.

What stands in it is kept: people put ranges of their own there, and hif_findcont does.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from casa_deepfocus.casa.continuum import LEAST_FREE
from casa_deepfocus.errors import ProductError

Range = tuple[float, float]
Entries = Mapping[tuple[str, str], tuple[str, Sequence[Range], str]]
"""(source, virtual id of a window) -> name of the window, ranges [GHz], frame."""

WRITTEN, KEPT, OLD = "written", "kept", "old format"
"""What became of an entry: it is in the file, the file had one already, the file cannot hold it."""

FRAMES = {"LSRK": "LSRK", "REST": "SOURCE", "SOURCE": "SOURCE"}
"""Frames of our cubes, and cont.dat's names of them: a cube that follows an ephemeris is in the source's frame."""

TOPOCENTRIC = 1
"""Version of the file whose ranges are topocentric; it has no place for a frame."""


def free_ranges(band: Range, lines: Sequence[Range], width: float) -> tuple[list[Range], float]:
    """Ranges of a band [GHz] that no line covers, and their share of it.

    Parameters
    ----------
    band : (low, high) [GHz], edges
    lines : sequence of (low, high) [GHz]
    width : float [GHz]
        Of a channel: ranges narrower than one are left out.

    Returns
    -------
    ranges : list of (low, high) [GHz]
        Rising; empty where less than `LEAST_FREE` of the band is free: what is left then is wings of lines.
    share : float
    """
    low, high = sorted(band)
    found, at = [], low
    for start, end in sorted(tuple(sorted(line)) for line in lines):
        if start - at >= width:
            found.append((at, min(start, high)))
        at = max(at, end)
    if high - at >= width:
        found.append((at, high))
    found = [(a, b) for a, b in found if b > a]
    share = sum(b - a for a, b in found) / (high - low)
    return (found if share >= LEAST_FREE else []), share


def add(path: str, entries: Entries, handler: Callable[[str], Any]) -> dict[tuple[str, str], str]:
    """Write ranges into cont.dat where it has none for a source and window yet.

    Parameters
    ----------
    path : str
    entries : Entries
        Those without ranges are not written.
    handler : class of the pipeline, ContFileHandler

    Returns
    -------
    dict : key of an entry -> WRITTEN, KEPT or OLD

    Raises
    ------
    ProductError
        Where the file cannot be written, or would lose something; it is as it was then.
    """
    before = handler(path).cont_ranges
    old = bool(before["fields"]) and before["version"] == TOPOCENTRIC
    content, became = copy.deepcopy(before), {}
    for (source, spw), (window, ranges, frame) in entries.items():
        if spw in content["fields"].get(source, {}):
            became[source, spw] = KEPT
        elif old:
            became[source, spw] = OLD
        elif ranges and frame in FRAMES:
            own = content["fields"].setdefault(source, {})
            items = [{"range": pair, "refer": FRAMES[frame]} for pair in ranges]
            own[spw] = {"spwname": window, "flags": [], "ranges": items}
            became[source, spw] = WRITTEN
    if WRITTEN in became.values():
        _replace(path, content, before, handler)
    return became


def _replace(path: str, content: dict[str, Any], before: dict[str, Any], handler: Callable[[str], Any]) -> None:
    """Write the file whole or not at all, once it is seen to hold what was there."""
    new = f"{path}.deepfocus-new"
    try:
        handler(new).write(content)
        after = handler(new).cont_ranges["fields"]
        for source, windows in before["fields"].items():
            for spw, item in windows.items():
                if after.get(source, {}).get(spw, {}).get("ranges") != item["ranges"]:
                    raise ProductError(
                        f"{path}: the ranges of {source}, window {spw} would be lost in writing; it is left as it is. "
                        "Write it in the form that hif_findcont uses"
                    )
        os.replace(new, path)
    except ProductError:
        raise
    except OSError as exc:
        raise ProductError(f"{path} cannot be written ({exc.strerror}); it is left as it is") from exc
    finally:
        if os.path.exists(new):
            os.remove(new)


def overlap(ranges: Sequence[Range], others: Sequence[Range]) -> float:
    """Width that two lists of ranges, each without overlaps, have in common."""
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in ranges for c, d in others)
