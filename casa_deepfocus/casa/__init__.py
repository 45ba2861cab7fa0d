"""Everything that touches CASA; the rest of the package is importable without it."""
