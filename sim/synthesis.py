"""The exact dirty image of stamps: sums in the uv plane, noise drawn there, one inverse transform a channel.

    image_c = irfft2( T_c sum_k s_k(c) FT(stamp_k) + sigma_c A_c z )

with the transfer T_c (transform of the PSF, known to twice the field and a little further), the spectra s_k and
stamps of `sim.stamps`, the noise's amplitudes A_c of `sim.weighting` and white complex deviates z. The same on a
torch device; there the noise comes from torch's generator of the device, so its values differ from numpy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ducc0
import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.errors import MissingDependencyError, ParameterError
from sim.stamps import Stamps
from sim.weighting import UvNoise

CHUNK = 8
"""Channels that are handled together; more do not fit into a processor's caches."""

CHUNK_DEVICE = 32


@dataclass(frozen=True, eq=False)
class Transfer:
    """How a sky is transferred, at nodes in frequency.

    Attributes
    ----------
    planes : (nnode, size, size // 2 + 1) float32 or complex64, of PSFs that are known to twice the field or further
    interpolation : (nchan, nnode) float64 onto the channels; None when every channel is a node
    band : float [cycles per pixel], highest spatial frequency along x or y of a visibility
    npix : int or None, side of the dirty image; half that of the planes when None
    """

    planes: NDArray[Any]
    interpolation: NDArray[np.float64] | None
    band: float
    npix: int | None = None

    @property
    def size(self) -> int:
        """Side of the PSF's image [pixel]."""
        return int(self.planes.shape[1])

    @property
    def field(self) -> int:
        """Side of the dirty image [pixel]."""
        return self.size // 2 if self.npix is None else self.npix

    @property
    def nchan(self) -> int:
        """Number of channels."""
        return len(self.planes if self.interpolation is None else self.interpolation)


def synthesize(
    parts: Sequence[Stamps],
    transfer: Transfer,
    *,
    noise: UvNoise | None = None,
    sigma: ArrayLike = 0.0,
    white: float = 0.0,
    rng: np.random.Generator | None = None,
    device: str | None = None,
) -> Any:
    """Dirty images of all channels.

    Parameters
    ----------
    parts : sequence of Stamps
    transfer : Transfer
    noise : UvNoise, needed with `rng`
    sigma : float or (nchan,) [Jy/beam], rms of the noise in the image
    white : float [Jy/beam], rms of further noise that is white over the pixels
    rng : numpy Generator of the noise; None for no noise
    device : str or None
        None computes with numpy; "cpu", "cuda", ... with torch. The sky is the same to single precision; the
        noise is reproducible on one kind of device, but its values differ between numpy and torch.

    Returns
    -------
    (nchan, npix, npix) float32 [Jy/beam], numpy array or torch tensor on the device
    """
    scale = np.broadcast_to(np.asarray(sigma, dtype=np.float32), (transfer.nchan,))
    if device is not None:
        return _on_device(parts, transfer, noise, scale, white, rng, device)
    size, npix = transfer.size, transfer.field
    mixing, shapes = _mixing(parts), _shapes(parts, transfer, lambda array: array)
    half = size // 2 + 1
    # Without a sky the noise fills a part of the columns only.
    columns = half if shapes is not None or noise is None else int((noise.cells % half).max()) + 1
    out = np.empty((transfer.nchan, npix, npix), np.float32)
    for chunk in _chunks(transfer.nchan, CHUNK):
        number = chunk.stop - chunk.start
        if shapes is None:
            spectrum = np.zeros((number, size, half), np.complex64)
        else:
            flat = mixing[chunk] @ shapes.reshape(len(shapes), -1).view(np.float32)
            spectrum = flat.view(np.complex64).reshape(number, size, half)
            spectrum *= _planes(transfer, chunk)
        if rng is not None and noise is not None:
            for place, chan in enumerate(range(chunk.start, chunk.stop)):
                values = noise.deviates(chan, rng) * scale[chan]
                spectrum[place].reshape(-1)[noise.cells[noise.channel(chan)]] += values
                out[chan] = white * rng.standard_normal((npix, npix), dtype=np.float32) if white else 0.0
        else:
            out[chunk] = 0.0
        out[chunk] += _images(spectrum[..., :columns], size, npix)
    return out


def _images(spectrum: NDArray[np.complex64], size: int, npix: int) -> NDArray[np.float32]:
    """The first (npix, npix) pixels of the inverse transforms of (n, size, up to size // 2 + 1)."""
    rows = ducc0.fft.c2c(spectrum, axes=(1,), forward=False, inorm=2, nthreads=1)[:, :npix]
    kept = np.zeros((len(rows), npix, size // 2 + 1), np.complex64)
    kept[..., : rows.shape[-1]] = rows
    return ducc0.fft.c2r(kept, axes=(2,), lastsize=size, forward=False, inorm=2, nthreads=1)[..., :npix]


def _planes(transfer: Transfer, chunk: slice) -> NDArray[Any]:
    """Transfer (n, size, size // 2 + 1) of some channels."""
    if transfer.interpolation is None:
        return transfer.planes[chunk]
    flat = transfer.planes.reshape(len(transfer.planes), -1)
    matrix = transfer.interpolation[chunk].astype(np.float32)
    if np.iscomplexobj(flat):
        mixed = (matrix @ flat.view(np.float32)).view(np.complex64)
    else:
        mixed = matrix @ flat
    return mixed.reshape(-1, *transfer.planes.shape[1:])


def _chunks(nchan: int, number: int) -> Iterator[slice]:
    for first in range(0, nchan, number):
        yield slice(first, min(first + number, nchan))


def _mixing(parts: Sequence[Stamps]) -> NDArray[np.float32]:
    """(nchan, n) spectra of all stamps."""
    return np.concatenate([part.spectra for part in parts], axis=1) if parts else np.zeros((0, 0), np.float32)


def _shapes(parts: Sequence[Stamps], transfer: Transfer, put: Callable[[NDArray], Any]) -> Any:
    """Transforms (n, size, size // 2 + 1) complex64 of all stamps about pixel (0, 0); None without any.

    `put` moves an array to where it is computed with.
    """
    done: list[Any] = []
    for part in parts:
        if not len(part.stamps):
            continue
        rows = _wave(np.fft.fftfreq(transfer.size), part.y, part, transfer.band)
        columns = _wave(np.fft.rfftfreq(transfer.size), part.x, part, transfer.band).T
        done.append(put(rows) @ (put(part.stamps.astype(np.complex64)) @ put(np.ascontiguousarray(columns))))
    if not done:
        return None
    if isinstance(done[0], np.ndarray):
        return np.concatenate(done)
    import torch

    return torch.cat(done)


def _wave(
    freq: NDArray[np.float64], place: NDArray[np.float64], part: Stamps, band: float
) -> NDArray[np.complex64]:
    """exp(-2 pi i k x) (nfreq, nplace), with what the stamps' pixels did to the transform undone."""
    # Widening is separable along the axes, and so are square pixels.
    undo = np.exp(2.0 * np.pi**2 * part.widened * freq**2) / np.sinc(freq * part.boxed)
    # The PSF ends at twice the field, so its transform leaks out of its band; moved by a part of a pixel, what
    # lies at the highest frequencies would ring all over the image.
    beyond = np.clip((np.abs(freq) - band) / max(0.5 - band, 1e-9), 0.0, 1.0)
    undo *= np.cos(0.5 * np.pi * beyond) ** 2
    return (undo[:, None] * np.exp(-2j * np.pi * freq[:, None] * place[None, :])).astype(np.complex64)


def _on_device(
    parts: Sequence[Stamps],
    transfer: Transfer,
    noise: UvNoise | None,
    sigma: NDArray[np.float32],
    white: float,
    rng: np.random.Generator | None,
    device: str,
) -> Any:
    """`synthesize` on a torch device."""
    torch = _torch(device)

    def put(array: NDArray) -> Any:
        return torch.as_tensor(array, device=device)

    size, npix, nchan = transfer.size, transfer.field, transfer.nchan
    half = size // 2 + 1
    shapes, mixing = _shapes(parts, transfer, put), put(_mixing(parts))
    planes, matrix = _device_transfer(transfer, device)
    out = torch.zeros((nchan, npix, npix), dtype=torch.float32, device=device)
    drawn = None
    if rng is not None and noise is not None:
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        cells, amplitude, each = _device_noise(noise, device)
        deviates = torch.randn((len(cells), 2), generator=generator, device=device)
        deviates *= (amplitude * torch.repeat_interleave(put(sigma.copy()), each))[:, None]
        drawn = noise, cells, torch.view_as_complex(deviates)
        if white:
            out.normal_(0.0, float(white), generator=generator)
    for chunk in _chunks(nchan, CHUNK_DEVICE):
        number = chunk.stop - chunk.start
        spectrum = torch.zeros((number, size, half), dtype=torch.complex64, device=device)
        if shapes is not None:
            flat = mixing[chunk] @ torch.view_as_real(shapes).reshape(len(shapes), -1)
            mixed = planes[chunk] if matrix is None else torch.tensordot(matrix[chunk].to(planes.dtype), planes, 1)
            spectrum = torch.view_as_complex(flat.reshape(number, size, half, 2)) * mixed
        if drawn is not None:
            _add_deviates(spectrum, chunk, *drawn)
        # Rows first: of their transforms only the first half is needed.
        rows = torch.fft.ifft(spectrum, dim=1)[:, :npix]
        out[chunk] += torch.fft.irfft(rows, n=size, dim=2)[..., :npix]
    return out


def _add_deviates(spectrum: Any, chunk: slice, noise: UvNoise, cells: Any, deviates: Any) -> None:
    """Put the noise of some channels into their cells of the uv plane (tensors)."""
    for place, chan in enumerate(range(chunk.start, chunk.stop)):
        part = noise.channel(chan)
        spectrum[place].view(-1)[cells[part]] += deviates[part]


@lru_cache(maxsize=1)
def _device_transfer(transfer: Transfer, device: str) -> tuple[Any, Any]:
    """Planes and interpolation (or None) on a device; remembered, as many fields share a geometry."""
    import torch

    matrix = transfer.interpolation
    return torch.as_tensor(transfer.planes, device=device), (
        None if matrix is None else torch.as_tensor(matrix.astype(np.float32), device=device)
    )


@lru_cache(maxsize=1)
def _device_noise(noise: UvNoise, device: str) -> tuple[Any, Any, Any]:
    """Cells, amplitudes and their number in each channel, on a device."""
    import torch

    arrays = (noise.cells, noise.amplitude, np.diff(noise.start))
    return tuple(torch.as_tensor(array, device=device) for array in arrays)


def _torch(device: str) -> Any:
    """The torch module, when it can compute on a device.

    Raises
    ------
    MissingDependencyError
        Without torch.
    ParameterError
        When torch cannot use the device here.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"device={device!r} needs PyTorch ({error}); pip install torch, or leave device out"
        ) from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        problem = f"torch cannot use it here ({str(error).splitlines()[0]})"
        raise ParameterError("device", device, problem, "use cpu, or leave it out for numpy") from error
    return torch
