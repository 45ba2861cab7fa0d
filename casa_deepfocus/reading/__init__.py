"""From image files to the core's `Cube`: FITS headers of every dialect, companions, contradictions. Needs no CASA."""
