"""The trained networks (one folder per preset, each with its manifest.json) and their runner."""
