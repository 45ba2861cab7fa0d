"""Simulated interferometer data with a known truth.

Arrays and uv coverage (`arrays`), a library of PSFs (`psflib`), the exact fast synthesis of dirty
maps and cubes (`fast`, `cube`), skies and truth tables (`sky`, `truth`), and the CASA backend
(`casa_backend`). Run from the repository root: ``python -m sim --help``.
"""
