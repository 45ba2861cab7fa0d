"""Builds the PSF library's file: which arrays, declinations and tracks it holds."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.errors import DataError, ProductError
from sim import arrays
from sim.psflib import GRID, LIBRARY, MIN_ELEVATION, SPLITS, Track, load_library, make_entry, split_cells

GROUPS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.70, tuple(f"alma.cycle{cycle}.{config}" for cycle in (7, 8, 9, 10, 11, 12) for config in range(1, 9))),
    (0.12, tuple(f"aca.cycle{cycle}" for cycle in (7, 8, 9, 10, 11, 12))),
    (0.13, ("vla.a", "vla.b", "vla.c", "vla.d", "vla.bna", "vla.cnb", "vla.dnc")),
    (0.05, ("sma.compact", "sma.extended", "pdbi-c", "pdbi-d", "atca_h168", "atca_h75")),
)
"""Share of the entries and the configurations to draw from."""

SPLIT_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
BRIGGS_SHARE = 0.15
DEC_RANGE = (-70.0, 40.0)
MINUTES = (5.0, 300.0)

MAX_BYTES = 25_000_000
"""Largest file: it travels with the training code."""

PAPER = "alma.cycle9.3"
"""The paper's configuration (its section 3), at dec -35, 2400 s, in every split."""


def draw_track(rng: np.random.Generator, split: str) -> Track:
    """A random observation that stays above the lowest elevation."""
    shares = np.array([share for share, _ in GROUPS])
    names = GROUPS[rng.choice(len(GROUPS), p=shares / shares.sum())][1]
    name = names[rng.integers(len(names))]
    latitude = arrays.read_array(name).latitude
    lowest, highest = max(DEC_RANGE[0], latitude - 62.0), min(DEC_RANGE[1] + max(latitude, 0.0), latitude + 62.0)
    dec = float(rng.uniform(lowest, highest))
    minutes = float(np.exp(rng.uniform(*np.log(MINUTES))))
    for _ in range(50):
        centre = float(rng.uniform(-5.0, 5.0))
        ends = centre + np.array([-0.5, 0.5]) * minutes / 60.0
        if arrays.elevation(latitude, dec, ends).min() > MIN_ELEVATION:
            break
        minutes = max(MINUTES[0], 0.9 * minutes)
    else:
        centre = 0.0
    robust = 0.5 if rng.random() < BRIGGS_SHARE else float("nan")
    return Track(name, dec, centre, 60.0 * minutes, robust, split)


def build_library(
    number: int = 300, seed: int = 2211, path: Path = LIBRARY, progress: Callable[[str], None] | None = None
) -> int:
    """Draw `number` tracks, grid them and write the library's file, all of it or nothing.

    Parameters
    ----------
    number : int, of entries, the paper's array in every split among them
    seed : int
    path : Path, replaced when it exists
    progress : callable, gets a line for every track that is left out

    Returns
    -------
    int : bytes written

    Raises
    ------
    ProductError
        When the file would be larger than `MAX_BYTES`, or cannot be written.
    """
    rng = np.random.default_rng(seed)
    tracks = [Track(PAPER, -35.0, 0.1 * i, 2400.0, float("nan"), split) for i, split in enumerate(SPLIT_SHARES)]
    names, shares = list(SPLIT_SHARES), list(SPLIT_SHARES.values())
    # Threads of the linear algebra change the last bits of the beams.
    with threadpool_limits(limits=1, user_api="blas"):
        entries = [(track, *make_entry(track)) for track in tracks]
        while len(entries) < number:
            track = draw_track(rng, names[rng.choice(len(names), p=shares)])
            try:
                entries.append((track, *make_entry(track)))
            except DataError as error:
                if progress:
                    progress(f"left out: {error}")
    band = max(max(int(np.abs(k).max()) for k in split_cells(cells)) for _, cells, _, _ in entries)
    columns = {name: np.array([getattr(entry[0], name) for entry in entries]) for name in Track.__dataclass_fields__}
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        length=np.array([len(cells) for _, cells, _, _ in entries], dtype=np.uint32),
        step=np.concatenate([np.diff(cells, prepend=0) for _, cells, _, _ in entries]).astype(np.uint16),
        value=np.concatenate([values for _, _, values, _ in entries]).astype(np.float16),
        beam=np.array([beam for *_, beam in entries]),
        band=np.int64(band),
        grid=np.int64(GRID),
        **columns,
    )
    size = packed.getbuffer().nbytes
    if size > MAX_BYTES:
        raise ProductError(f"{number} entries make {size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f}: ask for fewer")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(packed.getbuffer())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ProductError(f"{path} cannot be written: {error}") from error
    return size


def describe_library(path: Path = LIBRARY) -> str:
    """What a library's file holds: entries by split, arrays, declinations, tracks and weightings."""
    lines = [f"{path}: {path.stat().st_size / 1e6:.1f} MB, {GRID} x {GRID} pixels, {PIXELS_PER_BEAM:g} to the beam"]
    arrays_held: Counter[str] = Counter()
    for split in SPLITS:
        library = load_library(split, path)
        briggs = int((~np.isnan(library.robust)).sum())
        minutes = library.duration / 60.0
        lines.append(
            f"  {split}: {len(library)} PSFs ({briggs} with Briggs weighting), declinations {library.dec.min():.0f} to "
            f"{library.dec.max():.0f}, tracks of {minutes.min():.0f} to {minutes.max():.0f} min"
        )
        arrays_held.update(str(name) for name in library.array)
    held = ", ".join(f"{name} ({count})" for name, count in sorted(arrays_held.items()))
    lines += textwrap.wrap(f"arrays: {held}", 110, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"
