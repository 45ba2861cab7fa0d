"""The science, on plain arrays: numpy, scipy and astropy only.

Nothing here imports CASA, torch or onnxruntime. Conventions (docs/conventions.md): arrays are
(chan, y, x); pixel centres are integers from 0; sizes are FWHM; position angles run from north
through east, in degrees, in [0, 180).
"""
