"""Presets as text: what `python -m sim presets [NAME]` prints."""

from __future__ import annotations

import textwrap
from pathlib import Path

from sim.presets.schema import PRESETS, load_preset, schema


def list_presets() -> str:
    """The presets that come with the simulator, each with its description."""
    blocks = []
    for name in PRESETS:
        text = textwrap.fill(load_preset(name).description, 100, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{name}\n{text}")
    return "\n".join(blocks) + "\n"


def show_preset(preset: str | Path) -> str:
    """All parameters of a preset with value, unit, allowed range, meaning and the paper's place."""
    loaded = load_preset(preset)
    lines = textwrap.wrap(f"{loaded.name}: {loaded.description}", 110)
    group = ""
    for key, parameter in schema().items():
        if key.split(".")[0] != group:
            group = key.split(".")[0]
            lines += ["", f"{group}:"]
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        text = f"{key.split('.')[1]}: {loaded[key]}{unit}"
        lines += textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="    ")
        notes = [parameter.help, f"allowed: {parameter.allowed()}"]
        notes += [f"paper: {parameter.paper}"] if parameter.paper else []
        lines += textwrap.wrap("; ".join(notes), 110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"
