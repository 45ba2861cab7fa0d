"""Presets: random fields from readable recipes (docs/presets.md).

`schema.yaml` documents every parameter; `values` is the grammar of constants and distributions,
`schema` reads and checks, `fields` draws the observation and `sources` the sky, `describe` prints.
"""

from sim.presets.describe import list_presets, show_preset
from sim.presets.fields import Field, draw, draw_field, generators, geometry, label, recipe
from sim.presets.schema import PRESETS, Preset, load_preset, schema

__all__ = [
    "PRESETS",
    "Field",
    "Preset",
    "draw",
    "draw_field",
    "generators",
    "geometry",
    "label",
    "list_presets",
    "load_preset",
    "recipe",
    "schema",
    "show_preset",
]
