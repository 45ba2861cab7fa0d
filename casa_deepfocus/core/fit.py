"""The visibility-space likelihood at image cost: all sources fitted jointly on the dirty cube.

At natural weighting the likelihood of the visibilities is, up to a constant,

    ln L = sum_c [ m_c . d_c - m_c . (PSF_c (x) m_c) / 2 ] / sigma_c^2,

with m the primary-beam-weighted model [Jy/pixel] and d the dirty image [Jy/beam]. Sources are
Gaussians, or sums of Gaussians (core.profiles), on the sky times (Gaussian line + linear continuum)
in frequency, so everything that a Gauss-Newton step needs comes from small stamps: the derivative
images of the source, their products with the residual of each channel, and their products through the PSF. The residual
itself is made anew, exactly and over the whole field, between the sweeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from casa_deepfocus.core.component import NAMES, Component, spectral_factors
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, covariance_to_shape
from casa_deepfocus.core.noise import blank_to_zero, inverse_variance
from casa_deepfocus.core.profiles import EXPONENTIAL, profile_transform, profile_transforms
from casa_deepfocus.core.psf import Imager, place_psf

_FLUXES = ("amp", "cont", "slope")
"""Parameters that the model is linear in."""

_SPATIAL = {"x": 1, "y": 2, "sxx": 3, "syy": 4, "sxy": 5}
"""Places of parameters in the stack of images of `_Stamp.images`, whose first is the brightness itself."""

MOST_BEAMS = 40.0
"""Largest variance of a component along an axis [beam variance]: 6.3 beams."""

UNRESOLVED = -0.1
"""Smallest variance of a component along an axis [beam variance]."""

LARGEST_PART = 0.5
"""Largest FWHM of a component [side of the part of the image with data]; of a larger one hardly anything is seen."""

GROWN = 0.1
"""Response of a new component below which it has grown so large that it may stand for others; a Gaussian of twice the
beam has it."""


AROUND = 1.5
"""Around a component a fit looks at this much [beam, FWHM], besides its own size: the first sidelobes are there, ..."""

RINGING = 6
"""... and at so many pixels more: the band-limited image of a point has fallen to 1 / (6 pi), 5 per cent, there."""


def stamp_margin(beam_variance: float) -> int:
    """Pixels around a component that a fit looks at, besides its own size; the beam's variance [pixel^2]."""
    return int(np.ceil(AROUND * np.sqrt(beam_variance) * FWHM_PER_SIGMA)) + RINGING


class _Stamp:
    """The patch of sky that a group of components is fitted on, and the band-limited images on it."""

    def __init__(self, components: Sequence[Component], known: NDArray[np.bool_], margin: int) -> None:
        reach = [margin + int(np.ceil(2.0 * float(covariance_to_shape(c.covariance)[0]))) for c in components]
        low_x = min(round(c.x) - r for c, r in zip(components, reach, strict=True))
        low_y = min(round(c.y) - r for c, r in zip(components, reach, strict=True))
        high_x = max(round(c.x) + r for c, r in zip(components, reach, strict=True))
        high_y = max(round(c.y) + r for c, r in zip(components, reach, strict=True))
        # No wider than the image and one side of the widest component: what leaves there comes back off the image.
        whole = max(known.shape) + max(reach)
        self.size = fft.next_fast_len(min(max(high_x - low_x, high_y - low_y) + 1, whole), real=True)
        self.size += self.size % 2
        self.x0 = (low_x + high_x - self.size) // 2
        self.y0 = (low_y + high_y - self.size) // 2
        if self.size >= whole:
            self.x0, self.y0 = (
                min(max(start, side - self.size), 0)
                for start, side in ((self.x0, known.shape[1]), (self.y0, known.shape[0]))
            )
        self.shape = known.shape
        self.known: NDArray[np.bool_] | None = None
        rows, columns, part = self.overlap()
        on_stamp = np.zeros((self.size, self.size), dtype=bool)
        on_stamp[part] = known[rows, columns]
        if not on_stamp.all():
            self.known = on_stamp
        fy, fx = fft.fftfreq(self.size)[:, None], fft.rfftfreq(self.size)[None, :]
        self._factors = [1.0, -2j * np.pi * fx, -2j * np.pi * fy]
        self._factors += [-2 * np.pi**2 * fx**2, -2 * np.pi**2 * fy**2, -4 * np.pi**2 * fx * fy]

    def images(self, vector: NDArray, profile: str) -> NDArray[np.float32]:
        """(6, size, size) : a component's image of unit flux, and its derivatives by x, y, sxx, syy, sxy.

        They are 0 where there are no data: what lies there would agree with any model, and hold up a component
        that leans over the edge on a sidelobe.
        """
        grid = (self.size, self.size)
        base, by_size = profile_transforms(grid, vector[0] - self.x0, vector[1] - self.y0, vector[2:5], profile)
        bases = [base] * 3 + [by_size] * 3
        images = fft.irfft2(np.stack([b * factor for b, factor in zip(bases, self._factors, strict=True)]), s=grid)
        if self.known is not None:
            images *= self.known
        return images

    def holds(self, x: float, y: float) -> bool:
        """Whether there are data at a place: without them nothing would bound the flux of what stands there."""
        row, column = np.rint(y) - self.y0, np.rint(x) - self.x0
        if not (0 <= row < self.size and 0 <= column < self.size):
            return False
        return self.known is None or bool(self.known[int(row), int(column)])

    def overlap(self) -> tuple[slice, slice, tuple[slice, slice]]:
        """Rows and columns of the image under the stamp, and the same pixels on the stamp."""
        ny, nx = self.shape
        rows = slice(max(self.y0, 0), max(min(self.y0 + self.size, ny), max(self.y0, 0)))
        columns = slice(max(self.x0, 0), max(min(self.x0 + self.size, nx), max(self.x0, 0)))
        part = (
            slice(rows.start - self.y0, rows.stop - self.y0),
            slice(columns.start - self.x0, columns.stop - self.x0),
        )
        return rows, columns, part

    def cut(self, cube: NDArray) -> NDArray[np.float32]:
        """(nchan, size, size) : the cube on the stamp; 0 outside the image and where it is NaN."""
        out = np.zeros((cube.shape[0], self.size, self.size), dtype=np.float32)
        rows, columns, part = self.overlap()
        whole = (slice(None), *part)
        out[whole] = blank_to_zero(cube[:, rows, columns])
        return out

    def through_psf(self, images: NDArray, kernel: NDArray) -> NDArray:
        """The PSF applied to images on the stamp; linear, through a grid of twice the size."""
        double = (2 * self.size, 2 * self.size)
        return fft.irfft2(fft.rfft2(images, s=double) * kernel, s=double)[..., : self.size, : self.size]


class _Group:
    """Gauss-Newton on one group of overlapping components, from an exact residual."""

    def __init__(
        self,
        components: Sequence[Component],
        residual: NDArray,
        known: NDArray[np.bool_],
        imager: Imager,
        weights: NDArray,
        beam: NDArray,
        largest: float,
    ) -> None:
        self.components = list(components)
        self.weights = weights
        self.nchan = residual.shape[0]
        self.beam_variance = 0.5 * float(beam[0] + beam[1])
        self.largest = largest
        margin = stamp_margin(self.beam_variance)
        self.stamp = _Stamp(components, known, margin)
        self.residual = self.stamp.cut(residual).reshape(self.nchan, -1)
        double = (2 * self.stamp.size, 2 * self.stamp.size)
        middle = (float(np.mean([c.x for c in components])), float(np.mean([c.y for c in components])))
        self.psf = imager.stamp(self._reference_channel(), self.stamp.size, middle)
        kernel = np.fft.ifftshift(self.psf)
        self.kernel = fft.rfft2(kernel, s=double)
        columns, rows = self.stamp.x0 + np.arange(self.stamp.size), self.stamp.y0 + np.arange(self.stamp.size)
        self._modulated = lambda c: imager.modulated(c.x, c.y, columns, rows)
        self.start_modulated = [self._modulated(c) for c in components]
        self.start = [c.vector() for c in components]
        self.start_spectra = np.array(
            [self._spectra(c, v)["total"] for c, v in zip(components, self.start, strict=True)]
        )
        images = self._images_of(self.start)[:, 0]
        self.start_images = images.reshape(len(components), -1)
        self.start_dirty = self._dirty(images).reshape(len(components), -1)

    def _dirty(self, images: NDArray, modulated: Sequence[NDArray | None] | None = None) -> NDArray:
        """Dirty images (n, ..., size, size) of the components' images, by default of those of the group."""
        dirty = self.stamp.through_psf(images, self.kernel)
        for image, factor in zip(dirty, self.start_modulated if modulated is None else modulated, strict=True):
            if factor is not None:
                image *= factor
        return dirty

    def subtract_start(self) -> None:
        """Take the components as they start off the residual, where nobody has done so yet."""
        self.residual -= (self.start_spectra.T @ self.start_dirty).astype(np.float32)

    def give_back(self, components: Sequence[Component]) -> None:
        """Add the dirty images of components, as they stand, to the residual."""
        dirty, spectra = self._images(components)[1], self._totals(components)
        self.residual += (spectra.T @ dirty).astype(np.float32)

    def likelihood(self, components: Sequence[Component]) -> float:
        """ln L of components, against none, on a residual that holds all of them."""
        (images, dirty), spectra = self._images(components), self._totals(components)
        linear = (spectra * (images @ self.residual.T)).sum(axis=0)
        quadratic = np.einsum("ic,ij,jc->c", spectra, images @ dirty.T, spectra)
        return float((self.weights * (linear - 0.5 * quadratic)).sum())

    def _images(self, components: Sequence[Component]) -> tuple[NDArray, NDArray]:
        images = np.stack([self.stamp.images(c.vector(), c.profile)[0] for c in components])
        dirty = self._dirty(images, [self._modulated(c) for c in components])
        return images.reshape(len(components), -1), dirty.reshape(len(components), -1)

    def _images_of(self, vectors: Sequence[NDArray]) -> NDArray:
        """(n, 6, size, size) : images and derivatives of the group's components with other parameters."""
        return np.stack([self.stamp.images(v, c.profile) for c, v in zip(self.components, vectors, strict=True)])

    def _totals(self, components: Sequence[Component]) -> NDArray[np.float64]:
        return np.array([component.spectrum(self.nchan) for component in components])

    def _spectra(self, component: Component, vector: NDArray) -> dict[str, NDArray]:
        return spectral_factors(vector, self.nchan, component.has_line)

    def _reference_channel(self) -> int:
        power = np.zeros(self.nchan)
        for component in self.components:
            power += self.weights * component.spectrum(self.nchan) ** 2
        centre = (power * np.arange(self.nchan)).sum() / power.sum() if power.sum() > 0 else 0.5 * (self.nchan - 1)
        return int(np.clip(round(centre), 0, self.nchan - 1))

    def gain(self, vectors: Sequence[NDArray]) -> float:
        """ln L of the parameters minus ln L of the start."""
        images = self._images_of(vectors)[:, 0]
        flat = images.reshape(len(vectors), -1)
        spectra = np.array([self._spectra(c, v)["total"] for c, v in zip(self.components, vectors, strict=True)])
        change = np.concatenate([spectra, -self.start_spectra])
        both = np.concatenate([flat, self.start_images])
        linear = (change * (both @ self.residual.T)).sum(axis=0)
        dirty = np.concatenate([self._dirty(images).reshape(len(vectors), -1), self.start_dirty])
        products = both @ dirty.T
        quadratic = np.einsum("ic,ij,jc->c", change, products, change)
        return float((self.weights * (linear - 0.5 * quadratic)).sum()) + self._prior(vectors)

    def _prior(self, vectors: Sequence[NDArray]) -> float:
        total = 0.0
        for component, vector in zip(self.components, vectors, strict=True):
            if component.prior_covariance is not None and component.fit_shape:
                pull = (vector[2:5] - component.prior_covariance) / self.beam_variance
                total -= 0.5 * float((pull**2).sum())
            if component.has_slope:
                total -= 0.5 * float(vector[9] ** 2) * self._slope_weight(component)
        return total

    def _slope_weight(self, component: Component) -> float:
        """1 / variance expected of a component's slope; from its continuum as it was at the start."""
        start = self.start[self.components.index(component)]
        noise = 1.0 / np.sqrt(self.weights.sum())
        spread = component.slope_scale * max(abs(float(start[8])), noise)
        return 0.0 if np.isinf(spread) else 1.0 / spread**2

    def normal_equations(self, vectors: Sequence[NDArray]) -> tuple[NDArray, NDArray, list[tuple[int, str]]]:
        """Gradient and Fisher matrix of ln L by the free parameters, and their (component, name)."""
        images = self._images_of(vectors)  # component, field, y, x
        ncomp = len(vectors)
        flat = images.reshape(ncomp * 6, -1)
        dirty = self._dirty(images).reshape(ncomp * 6, -1)
        products = flat @ dirty.T
        products = 0.5 * (products + products.T)
        spectra = [self._spectra(c, v) for c, v in zip(self.components, vectors, strict=True)]
        totals = np.array([s["total"] for s in spectra])
        seen = flat @ self.residual.T
        seen += (flat @ self.start_dirty.T) @ self.start_spectra
        seen -= products[:, ::6] @ totals
        rows, index, names = [], [], []
        for number, component in enumerate(self.components):
            for name in component.free():
                names.append((number, name))
                index.append(6 * number + _SPATIAL.get(name, 0))
                rows.append(spectra[number]["total"] if name in _SPATIAL else spectra[number][name])
        factors = np.array(rows)
        gradient = (self.weights * factors * seen[index]).sum(axis=1)
        fisher = products[np.ix_(index, index)] * ((factors * self.weights) @ factors.T)
        return gradient, fisher, names

    def _with_prior(
        self, gradient: NDArray, fisher: NDArray, names: list[tuple[int, str]], vectors: Sequence[NDArray]
    ) -> tuple[NDArray, NDArray, list[tuple[int, str]]]:
        gradient, fisher = gradient.copy(), fisher.copy()
        for row, (number, name) in enumerate(names):
            prior = self.components[number].prior_covariance
            if prior is not None and name in ("sxx", "syy", "sxy"):
                place = ("sxx", "syy", "sxy").index(name)
                gradient[row] += (prior[place] - vectors[number][2 + place]) / self.beam_variance**2
                fisher[row, row] += 1.0 / self.beam_variance**2
            if name == "slope":
                weight = self._slope_weight(self.components[number])
                gradient[row] -= vectors[number][9] * weight
                fisher[row, row] += weight
        return gradient, fisher, names

    def solve(self, iterations: int) -> bool:
        """Levenberg-Marquardt steps from the start; the components take the result. True when they moved."""
        vectors = [v.copy() for v in self.start]
        best, damping, moved = self._prior(vectors), 1e-3, False
        for _ in range(iterations):
            gradient, fisher, names = self._with_prior(*self.normal_equations(vectors), vectors)
            diagonal = np.diag(fisher).copy()
            diagonal[diagonal <= 0] = 1.0
            scale = 1.0 / np.sqrt(diagonal)
            normal = fisher * scale[:, None] * scale[None, :]
            value, trial = -np.inf, vectors
            for _ in range(6):
                step = scale * np.linalg.lstsq(normal + damping * np.eye(len(names)), gradient * scale, rcond=1e-10)[0]
                trial = self._limited(vectors, step, names)
                value = self.gain(trial)
                if np.isfinite(value) and value >= best - 1e-9:
                    break
                value = -np.inf
                damping = max(damping * 10.0, 1e-3)
            if not np.isfinite(value):
                break
            improvement, best, vectors, moved = value - best, value, trial, True
            damping = max(damping * 0.2, 1e-6)
            if improvement < 1e-3:
                break
        for component, vector in zip(self.components, vectors, strict=True):
            component.set_vector(vector)
        return moved

    def _limited(self, vectors: Sequence[NDArray], step: NDArray, names: list[tuple[int, str]]) -> list[NDArray]:
        """A step that stays physical: limited moves in position, channel, width and size."""
        out = [v.copy() for v in vectors]
        beam = np.sqrt(self.beam_variance)
        for value, (number, name) in zip(step, names, strict=True):
            place = NAMES.index(name)
            if name in ("x", "y"):
                value = np.clip(value, -0.5 * beam, 0.5 * beam)
            elif name == "lnw":
                value = np.clip(value, -0.5, 0.5)
            elif name == "chan":
                value = np.clip(value, *(np.array([-0.5, 0.5]) * np.exp(out[number][6])))
            elif name in ("sxx", "syy", "sxy"):
                value = np.clip(value, -self.beam_variance, 2.0 * self.beam_variance)
            out[number][place] += value
        for component, vector, start, before in zip(self.components, out, self.start, vectors, strict=True):
            vector[0:2] = np.clip(vector[0:2], start[0:2] - 2.5 * beam, start[0:2] + 2.5 * beam)
            if not self.stamp.holds(*vector[0:2]):
                vector[0:2] = before[0:2]
            vector[6] = np.clip(vector[6], np.log(0.5), np.log(2.0 * self.nchan))
            vector[5] = np.clip(vector[5], -1.0, self.nchan)
            # Neighbours of opposite sign would grow against each other without end: emission only, and no
            # absorption deeper than the continuum, but for noise.
            deepest = -1.5 * max(vector[8], 0.0)
            vector[7] = np.clip(vector[7], deepest, 0.0) if component.absorption else max(vector[7], 0.0)
            if not component.has_line:
                vector[8] = max(vector[8], 0.0)
            if component.fit_shape:
                least = 0.0 if component.profile == EXPONENTIAL else UNRESOLVED * self.beam_variance
                vector[2:5] = bounded_covariance(vector[2:5], least, self.largest)
        return out

    def apply(self, residual: NDArray) -> None:
        """Carry the change of the fit into the residual, on the stamp: the next group sees it."""
        vectors = [c.vector() for c in self.components]
        images = self._images_of(vectors)[:, 0]
        dirty = self._dirty(images)
        old = self.start_dirty.reshape(dirty.shape)
        new = np.array([self._spectra(c, v)["total"] for c, v in zip(self.components, vectors, strict=True)])
        rows, columns, part = self.stamp.overlap()
        whole = (slice(None), *part)
        change = np.tensordot(new.T, dirty[whole], axes=1) - np.tensordot(self.start_spectra.T, old[whole], axes=1)
        residual[:, rows, columns] -= change.astype(np.float32)

    def finish(self) -> None:
        """Errors and signal to noise of the components, from the Fisher matrix at the solution."""
        vectors = [c.vector() for c in self.components]
        images = self._images_of(vectors)[:, 0]
        responses = (images * self._dirty(images)).sum(axis=(1, 2))
        gradient, fisher, names = self.normal_equations(vectors)
        _, fisher_prior, _ = self._with_prior(gradient, fisher, names, vectors)
        covariance = _inverse(fisher_prior)
        fluxes = [row for row, (_, name) in enumerate(names) if name in _FLUXES]
        flux_errors = dict(
            zip(fluxes, np.sqrt(np.diag(_inverse(fisher_prior[np.ix_(fluxes, fluxes)])).clip(0.0)), strict=True)
        )
        for number, component in enumerate(self.components):
            rows = [row for row, (owner, _) in enumerate(names) if owner == number]
            mine = [names[row][1] for row in rows]
            component.matrix = np.zeros((len(NAMES), len(NAMES)))
            places = [NAMES.index(name) for name in mine]
            component.matrix[np.ix_(places, places)] = covariance[np.ix_(rows, rows)]
            component.errors = {
                name: float(np.sqrt(max(covariance[row, row], 0.0))) for name, row in zip(mine, rows, strict=True)
            }
            component.snr_line, component.snr_cont = 0.0, 0.0
            component.response = float(responses[number])
            for row, name in zip(rows, mine, strict=True):
                if name == "amp":
                    component.snr_line = _ratio(abs(component.amp), flux_errors[row])
                if name == "cont":
                    component.snr_cont = _ratio(component.cont, flux_errors[row])


def _inverse(fisher: NDArray) -> NDArray[np.float64]:
    """Inverse of a Fisher matrix; what the data do not constrain at all gets a huge error, not an overflow."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(fisher), 1e-200))
    outer = np.outer(scale, scale)
    values, vectors = np.linalg.eigh(fisher * outer)
    # A direction in which ln L does not fall says nothing; its inverse would be a negative variance.
    told = values > len(values) * np.finfo(float).eps * values[-1]
    return ((vectors[:, told] / values[told]) @ vectors[:, told].T) * outer


def _ratio(value: float, error: float) -> float:
    return float(value / error) if error > 0 else 0.0


def bounded_covariance(covariance: NDArray, least: float, largest: float) -> NDArray[np.float64]:
    """(3,) [pixel^2] : a covariance (3,) with its variances along the axes within bounds [pixel^2].

    A small negative one is allowed below: the unresolved stay unbiased, not wild.
    """
    matrix = np.array([[covariance[0], covariance[2]], [covariance[2], covariance[1]]])
    values, axes = np.linalg.eigh(matrix)
    values = np.clip(values, least, largest)
    matrix = axes @ np.diag(values) @ axes.T
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 1]])


def groups_of(
    components: Sequence[Component], beam_fwhm: float, *, reach: float = 1.5, most: int = 6
) -> list[list[int]]:
    """Components that must be fitted together: chains of neighbours closer than `reach` beams plus sizes.

    Parameters
    ----------
    components : sequence of Component
    beam_fwhm : float [pixel]
    reach : float [beam]
    most : int, larger chains are cut: the outer sweeps join what is cut

    Returns
    -------
    list of lists of indices
    """
    order = list(range(len(components)))
    sizes = [float(covariance_to_shape(c.covariance)[0]) for c in components]
    groups: list[list[int]] = []
    for number in order:
        joined: list[int] = [number]
        rest = []
        for group in groups:
            close = any(
                np.hypot(components[number].x - components[other].x, components[number].y - components[other].y)
                < reach * beam_fwhm + 0.5 * (sizes[number] + sizes[other])
                for other in group
            )
            if close and len(joined) + len(group) <= most:
                joined = group + joined
            else:
                rest.append(group)
        groups = [*rest, joined]
    return groups


class JointFit:
    """Joint fit of all components on a dirty cube.

    Parameters
    ----------
    data : (nchan, ny, nx) float32 [Jy/beam]
    sigma : (nchan,) [Jy/beam]; NaN for flagged channels
    imager : Imager, the PSFs
    beam_covariance : (3,) [pixel^2]
    """

    def __init__(self, data: NDArray[np.float32], sigma: NDArray, imager: Imager, beam_covariance: NDArray) -> None:
        self.data = data
        self.known = np.asarray(np.isfinite(data).any(axis=0))
        self.weights = inverse_variance(sigma)
        self.imager = imager
        self.beam = np.asarray(beam_covariance, dtype=float)
        self.beam_fwhm = float(FWHM_PER_SIGMA * (self.beam[0] * self.beam[1] - self.beam[2] ** 2) ** 0.25)
        self.largest = min(MOST_BEAMS * 0.5 * float(self.beam[0] + self.beam[1]), self._largest_on_data())
        self.residual = data.copy()

    def _largest_on_data(self) -> float:
        """Largest variance [pixel^2] of a component that shows on the part of the image with data."""
        sides = [np.flatnonzero(self.known.any(axis=axis)) for axis in (0, 1)]
        side = min((int(np.ptp(seen)) + 1 if seen.size else 0) for seen in sides)
        return max((LARGEST_PART * side / FWHM_PER_SIGMA) ** 2, float(max(self.beam[:2])))

    def update_residual(self, components: Sequence[Component]) -> NDArray[np.float32]:
        """Data minus the dirty image of all components, exact, over the whole field. (nchan, ny, nx)."""
        np.copyto(self.residual, self.data)
        if components:
            grid = self.imager.grid
            transforms = np.stack([profile_transform(grid, c.x, c.y, c.covariance, c.profile) for c in components])
            spectra = np.array([c.spectrum(self.data.shape[0]) for c in components])
            peaks = np.max(np.abs(spectra) * np.sqrt(self.weights), axis=1, keepdims=True)
            # A hundredth of a per cent of a source's own peak, and of the noise, is left out.
            faint = np.abs(spectra) * np.sqrt(self.weights) < np.minimum(1e-4 * peaks, 1e-2)
            spectra = np.where(faint, 0.0, spectra)
            self.imager.subtract(self.residual, transforms, spectra, [(c.x, c.y) for c in components])
        return self.residual

    def fit(self, components: Sequence[Component], *, sweeps: int = 3, iterations: int = 10) -> None:
        """Fit all components in place; the residual is up to date afterwards.

        Groups are fitted one after the other, and the first sees the sidelobes of all that is not fitted yet: it may
        grow to explain them. Where a new component has grown like that all start again, at first with the shapes held.

        Parameters
        ----------
        components : sequence of Component, starting values in, solution and errors out
        sweeps : int, exact residuals made at most
        iterations : int, Levenberg-Marquardt steps of a group in a sweep
        """
        self.update_residual(components)
        new = [c for c in components if c.fit_shape and not c.errors]
        start = [c.vector() for c in components]
        self._sweeps(components, sweeps, iterations)
        if len(new) > 1 and any(c.response < GROWN for c in new):
            for component, vector in zip(components, start, strict=True):
                component.set_vector(vector)
            self.update_residual(components)
            for component in new:
                component.fit_shape = False
            self._sweep(components, iterations)
            for component in new:
                component.fit_shape = True
            self._sweeps(components, sweeps, iterations)

    def _sweeps(self, components: Sequence[Component], most: int, iterations: int) -> None:
        """Sweeps until nothing moves, with errors and SNR at the end."""
        for sweep in range(most):
            before = [c.vector() for c in components]
            self._sweep(components, iterations)
            if sweep + 1 < most and self._settled(components, before):
                break
        self.measure(components)

    def _sweep(self, components: Sequence[Component], iterations: int) -> None:
        for group in self._groups(components):
            if group.solve(iterations):
                group.apply(self.residual)
        self.update_residual(components)

    def fit_alone(self, component: Component, *, iterations: int = 10) -> None:
        """Fit one component in place, with errors and SNR, on a residual that holds all of it; the residual stays."""
        group = self._group([component])
        group.subtract_start()
        group.solve(iterations)
        group.finish()

    def in_place_of(self, old: Sequence[Component], new: Sequence[Component], *, iterations: int = 15) -> float:
        """Fit components in place where others stand now; everything else is held, and the residual stays.

        Parameters
        ----------
        old : sequence of Component, part of what the residual is without
        new : sequence of Component, starting values in, solution, errors and SNR out

        Returns
        -------
        float, ln L of the new minus ln L of the old
        """
        group = self._group(new)
        group.give_back(old)
        before, all_of_it = group.likelihood(old), group.residual.copy()
        group.subtract_start()
        group.solve(iterations)
        group.finish()
        group.residual = all_of_it
        return group.likelihood(new) - before

    def drift(self, component: Component) -> tuple[float, NDArray[np.float64]]:
        """Whether what a line's Gaussian leaves says that its place moves with the channel, to first order.

        Returns
        -------
        gain : float, ln L that the motion gains
        motion : (2,) float64 [pixel per channel], along x and y
        """
        group = self._group([component])
        images = group.stamp.images(component.vector(), component.profile)[1:3]
        dirty = group._dirty(images[None])[0].reshape(2, -1)
        images = images.reshape(2, -1)
        moved = component.line_spectrum(group.nchan) * (np.arange(group.nchan) - component.chan)
        gradient = images @ ((self.weights * moved) @ group.residual)
        motion = np.linalg.lstsq((images @ dirty.T) * float(self.weights @ moved**2), gradient, rcond=1e-10)[0]
        return 0.5 * float(gradient @ motion), motion

    def likelihood(self, components: Sequence[Component], weights: NDArray | None = None) -> float:
        """ln L of a whole model, against none: half the sum of m . (d + r) / sigma^2, r being the residual.

        Parameters
        ----------
        components : sequence of Component, all of the model that the residual is without
        weights : (nchan,) [1 / (Jy/beam)^2], other than those of the fit
        """
        weights = self.weights if weights is None else weights
        total = 0.0
        for component in components:
            stamp = _Stamp([component], self.known, self._margin())
            image = stamp.images(component.vector(), component.profile)[0]
            rows, columns, part = stamp.overlap()
            seen = sum(
                np.tensordot(blank_to_zero(cube[:, rows, columns]), image[part], axes=2)
                for cube in (self.data, self.residual)
            )
            total += 0.5 * float((weights * component.spectrum(len(weights))) @ seen)
        return total

    def _margin(self) -> int:
        """Pixels around a component that a fit looks at, besides its own size."""
        return stamp_margin(0.5 * float(self.beam[0] + self.beam[1]))

    def set_noise(self, sigma: NDArray) -> None:
        """Take another noise, (nchan,) [Jy/beam]."""
        self.weights = inverse_variance(sigma)

    def measure(self, components: Sequence[Component]) -> None:
        """Errors and signal to noise of the components as they stand."""
        for group in self._groups(components):
            group.finish()

    def source_spectrum(self, component: Component) -> NDArray[np.float64]:
        """Flux density of one component in each channel, with every other component subtracted.

        The matched filter of its fitted shape: model + G . residual / (G . PSF (x) G).

        Returns
        -------
        (nchan,) float64 [Jy], apparent
        """
        group = self._group([component])
        image = group.start_images[0]
        response = float(image @ group.start_dirty[0])
        return group.start_spectra[0] + (group.residual @ image) / response

    def parts_on_stamp(
        self, components: Sequence[Component], spectra: NDArray[np.float64]
    ) -> tuple[_Stamp, NDArray[np.float32], NDArray]:
        """The patch of sky around components, the data there with a part of their flux only, and the PSF's transform.

        Parameters
        ----------
        components : sequence of Component, whose shapes count
        spectra : (n, nchan) [Jy], what stays of each

        Returns
        -------
        stamp : _Stamp, its `size`, and its pixel (0, 0) at `x0`, `y0` of the image
        data : (nchan, size, size) float32 [Jy/beam]
        psf : (size, size // 2 + 1) float64
        """
        group = self._group(components)
        data = group.residual + (np.asarray(spectra).T @ group.start_dirty).astype(np.float32)
        size = group.stamp.size
        psf = fft.rfft2(place_psf(group.psf, (size, size))).real
        return group.stamp, data.reshape(group.nchan, size, size), psf

    def _group(self, components: Sequence[Component]) -> _Group:
        return _Group(components, self.residual, self.known, self.imager, self.weights, self.beam, self.largest)

    def _groups(self, components: Sequence[Component]) -> Iterable[_Group]:
        for indices in groups_of(components, self.beam_fwhm):
            yield self._group([components[index] for index in indices])

    def _settled(self, components: Sequence[Component], before: Sequence[NDArray]) -> bool:
        for component, old in zip(components, before, strict=True):
            new = component.vector()
            if np.hypot(*(new[:2] - old[:2])) > 0.01 * self.beam_fwhm:
                return False
            size = max(abs(new[7]), abs(new[8]), 1e-30)
            if abs(new[7] - old[7]) > 0.01 * size or abs(new[8] - old[8]) > 0.01 * size:
                return False
        return True
