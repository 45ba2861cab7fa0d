"""Everything that touches CASA; the rest of the package is importable without it."""

from casa_deepfocus import casa_data

# Before anything here imports casatools, which looks for its data at once.
casa_data.provide()
