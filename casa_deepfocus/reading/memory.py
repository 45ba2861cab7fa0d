"""Whether a search fits into the memory that is left, known before any work from the shapes alone."""

from __future__ import annotations

from pathlib import Path

import psutil

from casa_deepfocus.errors import DataError

ITEMSIZE = 4
"""Bytes of a pixel (float32)."""

FIXED = 400 * 2**20
"""What a search needs beside its arrays [byte]: the networks with their work space, the slab that CASA hands over in
double precision with its mask (reading.cube.SLAB pixels), and what is no longer used but not yet given back."""

CUBES = 10
"""Copies of the cube that the search makes at its peak: its own in units of the noise, the residual, the line cube and
its running sums; the image in which weights are undone and the model of sources outside, where there are any, are three
more. Measured without these, as growth beyond cube, PSF and primary beam (``python -m benchmarks size``): 5.4 times the
cube for 360 x 360 x 128 pixels, 5.9 for 512 x 512 x 64, 6.1 for 256 x 256 x 128."""

PLANES = 100
"""The same in single planes, which count where channels are few: maps at the working resolution, what the network makes
of them, transforms at twice the field. Measured: 102 times the plane for 1024 x 1024 pixels, 96 for 2048 x 2048."""

CGROUPS = Path("/sys/fs/cgroup")


def check_memory(nchan: int, ny: int, nx: int, psf_shape: tuple[int, int, int], name: str) -> None:
    """See that the search of a cube fits into the memory that is left; nothing is read.

    Parameters
    ----------
    nchan, ny, nx : int
        Shape of the cube; nothing is checked where `nchan` is not known (-1).
    psf_shape : (planes, py, px) of its PSF
    name : str
        The image or measurement set, for the message.

    Raises
    ------
    DataError
        With the bytes needed and left, and how many channels, or what field, would fit.
    """
    if nchan < 1:
        return
    free, need = available_memory(), needed_memory(nchan, ny, nx, psf_shape)
    if need <= free:
        return
    planes, py, px = psf_shape
    fixed = needed_memory(0, ny, nx, (1 if planes == 1 else 0, py, px))
    fewer = min((free - fixed) // (needed_memory(1, ny, nx, (1, py, px)) - fixed), nchan - 1)
    if fewer >= 1:
        remedy = (
            f"Search {fewer} channels at a time: imsubimage(imagename=..., outfile=..., chans='0~{fewer - 1}') of "
            f"image and psf alike, nchan={fewer} for a measurement set"
        )
    else:
        remedy = "Search a smaller field: imsubimage(..., box=...) of image and pb alike; imsize for a measurement set"
    raise DataError(
        f"{name!r}: the search of {nx} x {ny} pixels and {nchan} channels needs about {_gib(need)} of memory, and "
        f"{_gib(free)} are left. {remedy}"
    )


def needed_memory(nchan: int, ny: int, nx: int, psf_shape: tuple[int, int, int]) -> int:
    """Bytes that reading and searching a cube needs at its peak."""
    planes, py, px = psf_shape
    pixels = (CUBES * nchan + PLANES) * ny * nx + nchan * ny * nx + planes * py * px
    return FIXED + ITEMSIZE * pixels


def available_memory() -> int:
    """Bytes that this process may still use: of the machine, or of the tightest control group that it is in."""
    return min([int(psutil.virtual_memory().available), *_group_room()])


def _group_room() -> list[int]:
    """Bytes left in each control group of this process, versions 1 and 2; empty where there are none, or no limits."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root = CGROUPS if controllers == "" else CGROUPS / "memory"
        limit, usage = ("memory.max", "memory.current") if controllers == "" else (
            "memory.limit_in_bytes", "memory.usage_in_bytes"
        )  # fmt: skip
        folder = root / path.lstrip("/")
        # In a container the path is the host's, and the group itself stands at the root.
        for group in (folder, *folder.parents):
            room = _room(group / limit, group / usage, group / "memory.stat")
            if room is not None:
                rooms.append(room)
            if group == root:
                break
    return rooms


def _room(limit: Path, usage: Path, stat: Path) -> int | None:
    try:
        most = limit.read_text(encoding="utf-8").strip()
        used = int(usage.read_text(encoding="utf-8"))
        fields = dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    # The cache of files that nobody reads any more is given back when memory is asked for.
    cache = int(fields.get("inactive_file", fields.get("total_inactive_file", 0)))
    return max(int(most) - used + cache, 0)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
