"""``python -m benchmarks NAME``, from the root of the repository."""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    archive,
    bounds,
    completeness,
    constants,
    crossmatch,
    discs,
    faults,
    fidelity,
    imaging,
    kills,
    mosaic,
    networks,
    noise,
    noisemap,
    peers,
    profiles,
    psf,
    report,
    size,
    sizes,
    speed,
    throughput,
    toys,
    weights,
)
from casa_deepfocus.errors import DeepFocusError


def make_parser() -> argparse.ArgumentParser:
    """The command line; the parsed arguments carry the function to call as `run`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module, text in (
        ("speed", speed, "seconds of each step and peak memory of one search"),
        ("networks", networks, "seconds of each network in one search, and of all together"),
        ("psf", psf, "a cube's PSFs as a few principal images: exactness and speed"),
        ("profiles", profiles, "an exponential disc as concentric Gaussians: the fit, and what each number leaves"),
        ("discs", discs, "discs of an evaluation: how many are one row, and which false rows are pieces of them"),
        ("noise", noise, "peaks of noise found in empty fields, beside the law for them"),
        ("noisemap", noisemap, "noise that varies over the image: false alarms, completeness, with a map and without"),
        ("toys", toys, "toy images in noise of several kinds, without a PSF and with it: rows and pulls"),
        ("weights", weights, "signal to noise in a Briggs weighted image, and with the weights undone"),
        ("size", size, "seconds and peak memory of a search against the size of the cube"),
        ("sizes", sizes, "bias of sizes, over populations of sources and prior densities"),
        ("faults", faults, "odd inputs: how many end right, with a clear error, badly"),
        ("constants", constants, "the numbers that a search depends on, with their reasons, on one page"),
        ("bounds", bounds, "Cramer-Rao bounds beside the scatter of brute-force fits"),
        ("fidelity", fidelity, "the fast simulator beside CASA: images and noise"),
        ("completeness", completeness, "shares of sources found: by injection into one cube, and by simulation"),
        ("imaging", imaging, "seconds of imaging beside tclean alone, and how exact its PSFs are"),
        ("throughput", throughput, "cubes an hour of CASA and of the fast simulator, side by side"),
        ("crossmatch", crossmatch, "one catalogue of many cubes: seconds, sources twice or joined, pulls"),
        ("kills", kills, "runs that are killed and disks that fill: nothing lost, nothing left behind"),
        ("mosaic", mosaic, "the model of a mosaic's dirty image beside tclean's; mosaics beside single pointings"),
        ("archive", archive, "several targets and windows: the shell, workers, kills; the tables judged"),
        ("report", report, "report pages of 0 to 500 sources: size, loading, what axe-core finds; pictures of them"),
        ("peers", peers, "other source finders on the same simulated cubes"),
    ):
        command = commands.add_parser(name, help=text)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; returns the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        return args.run(args)
    except DeepFocusError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
