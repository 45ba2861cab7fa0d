"""Write docs/presets.md from the presets' schema: ``python docs/make_presets.py``, from the repository root."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from sim.presets.schema import PRESETS, REQUIRED, Parameter, load_preset, schema  # noqa: E402

HEAD = """# Presets of the simulator

Made from `sim/presets/schema.yaml` and the presets beside it by `python docs/make_presets.py`; do not edit.

A preset is a YAML file that says how random fields are drawn. `python -m sim presets` lists those that come with the
simulator, `python -m sim presets alma` prints one with all its values and their meaning, and wherever a preset is
asked for, the path of a file of your own will do:

```yaml
description: The paper's fields with longer baselines, more and fainter sources
base: paper                        # start from a preset or a file; give only what changes
observation: {array: alma.cycle9.4}
image: {pixels_per_beam: 6}        # instead of the base's cell
sources:
  number: {weighted: [[0.2, 0], [0.8, {integer: [3, 10]}]]}
brightness:
  central_snr: {log_uniform: [5, 30]}
```

## Values

| written | drawn |
|---|---|
| `8`, `natural`, `true` | this value always |
| `{uniform: [2, 8]}` | between the two, every value as likely |
| `{log_uniform: [10, 100]}` | between the two, every factor as likely |
| `{integer: [2, 5]}` | 2, 3, 4 or 5 |
| `{choice: [a, b, {uniform: [1, 2]}]}` | one of them, each as likely; values may be distributions |
| `{weighted: [[0.9, a], [0.1, {integer: [1, 4]}]]}` | one of them, by the shares, which add up to 1 |
| `null` | not given |

Numbers are in the unit of the table below. A number drawn for an integer is rounded. What does not fit - a key that
is not there, a wrong type, a value out of range, a declination that never rises above 20 degrees, a pixel larger
than half the beam - is refused with the file, the key and what would do, before anything is computed.

## The random numbers
Field i of a preset depends on (preset's name, seed, i) alone. Inside a field every parameter of every source has a
stream of its own, seeded by the field and the parameter's name: a parameter more, or another order, leaves the
others' values as they were. A key that is drawn again until it fits goes on in its own stream.

"""

NOTES = """## How the fields come about
- **Checked.** 400 fields each of alma and vla, 200 each of paper and paper-code, and 700 observations: kinds, shapes,
  sizes, widths, SNRs, defects are spread as written (60 Kolmogorov-Smirnov and binomial tests, lowest p 0.005).
- **Order.** Observation, pixels and channels, then the PSF, sources one by one, companions, brightness, defects.
- **Elevation.** The declination is drawn as written; hour angle and duration are drawn together until the whole
  track stands above 20 degrees. So long tracks are rarer in the far north and south than the preset's duration says.
- **Cap.** A full primary beam at C-10 with 1024 channels is hundreds of GB. `image.max_voxels` (1.7e7, the paper's
  cube) cuts the field to its middle, as one images a part, then the channels.
- **Brightness by SNR** (`line_snr`, `continuum_snr`; alma, vla). The SNR is that of the ideal linear filter in the
  thermal noise, at the source's place in the primary beam, with all channels and antennas that are not flagged
  throughout; flagged channels and wrong gains come on top. Sources at the primary beam's edge are intrinsically
  brighter for it.
- **Brightness by amplitude** (`amplitude`; paper, paper-code). The first source's emission peaks at 1 mJy/pixel
  (simobserve's inbright), the others at this or less. The line is a multiple of the continuum; in the
  mean of the band it adds a sixth to it.
- **Thermal and white noise** (`sefd`, `central_snr`). The paper adds pixel-white noise to the dirty cubes until the
  central source has the SNR that it wants. With tsys-atm at 0.8 mm of water the thermal noise is 0.375 mJy/beam a
  channel; with it alone the central source of `paper` has an SNR of 30 to 450 in the mean of the band (half above 170),
  that of `paper-code` 175 to 1000. So most of the noise is white: its rms is 1.6 to 15 times the thermal one (10 to
  90 % of the `paper` fields), and only 1.5 % of the fields need none. White noise is not correlated within a beam, and
  a filter as large as the beam averages it down: the matched-filter SNR of the central continuum is 2 to 7 times the
  SNR of its peak (0.9 to 1 times it in thermal noise), so the fields are much easier than `central_snr` says. The
  truth's SNR counts both noises. For thermal noise alone write `brightness: {central_snr: null}` and raise `sefd`.
- **Position angles.** Table 1 has 0 to 90 degrees, and two sizes drawn on their own; `pa` is that of the first. The
  major axis is the longer one, and lies anywhere in 0 to 180.
- **Sizes.** The paper's text and Table 1 say FWHM of 2 to 8 pixels; eq. 3, and the code behind it, use the numbers as
  standard deviations (FWHM 4.7 to 18.8 pixels). `paper` follows the text, `paper-code` the code.
- **The band.** simobserve's incenter is the frequency of the middle channel: 230 GHz is channel 64.
- **Blends.** A companion has its own kind, shape and brightness; it stands at the drawn separation from its first in a
  random direction, its line at the drawn distance in frequency.
- **Discs.** The rotation is scaled so that the line of the whole disc is as wide as `lines.fwhm` says.

"""


def _values(parameter: Parameter) -> str:
    text = parameter.allowed()
    return text + (f" [{parameter.unit}]" if parameter.unit else "")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def make() -> str:
    """Text of docs/presets.md."""
    loaded = {name: load_preset(name) for name in PRESETS}
    blocks = ["## The presets\n", *(f"- `{name}`: {preset.description}" for name, preset in loaded.items()), ""]
    blocks += ["## Parameters\n", "A parameter without a default must be given, by the file or its base.\n"]
    group = ""
    for key, parameter in schema().items():
        if key.split(".")[0] != group:
            group = key.split(".")[0]
            blocks += ["", f"### {group}\n", _row(["parameter", "values", "default", "paper", "meaning"])]
            blocks.append("|---" * 5 + "|")
        default = "" if parameter.default is REQUIRED else f"`{_written(parameter.default)}`"
        meaning = parameter.help
        if parameter.instead_of:
            meaning += f"; instead of `{parameter.instead_of.split('.')[1]}`"
        blocks.append(_row([f"`{key.split('.')[1]}`", _values(parameter), default, parameter.paper, meaning]))
    blocks += ["", "## What each preset has\n", _row(["parameter", *loaded]), "|---" * (1 + len(loaded)) + "|"]
    blocks += [_row([f"`{key}`", *(_short(str(preset[key])) for preset in loaded.values())]) for key in schema()]
    return HEAD + NOTES + "\n".join(blocks) + "\n"


def _written(node: object) -> str:
    if node is None:
        return "null"
    return str(node).replace("'", "").lower() if isinstance(node, bool) else str(node).replace("'", "")


def _short(text: str, most: int = 120) -> str:
    """A value for a cell; long lists by their first and last."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 4 :]}"


if __name__ == "__main__":
    (HERE / "presets.md").write_text(make(), encoding="utf-8")
