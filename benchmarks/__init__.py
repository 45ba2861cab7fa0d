"""Measured speed and memory; run from the repository root: ``python -m benchmarks speed``."""
