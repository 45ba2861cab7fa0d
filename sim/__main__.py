"""Command line of the simulations: ``python -m sim <command>``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from casa_deepfocus.errors import DeepFocusError
from sim import psfbuild


def _psfs(args: argparse.Namespace) -> None:
    size = psfbuild.build_library(args.n, args.seed, progress=lambda text: sys.stdout.write(text + "\n"))
    sys.stdout.write(f"{psfbuild.LIBRARY}: {size / 1e6:.1f} MB\n")


def _demo(args: argparse.Namespace) -> None:
    from sim.demo import write_demo

    table = write_demo(Path(args.out), args.seed)
    sys.stdout.write(f"{args.out}/demo.ms and {args.out}/truth.ecsv: {len(table)} sources\n")


def _generate(args: argparse.Namespace) -> None:
    from sim.fits import generate

    sources = generate(args.preset, args.n, args.seed, Path(args.out), first=args.first)
    sys.stdout.write(f"{args.out}: {args.n} fields, {sources} sources\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    psfs = commands.add_parser("psfs", help="build the library of PSFs anew")
    psfs.add_argument("--n", type=int, default=240, help="number of entries")
    psfs.add_argument("--seed", type=int, default=2211)
    psfs.set_defaults(run=_psfs)
    demo = commands.add_parser("demo", help="simulate a small measurement set with a known truth (CASA)")
    demo.add_argument("--out", required=True, help="folder for demo.ms and truth.ecsv")
    demo.add_argument("--seed", type=int, default=1, help="of the noise and the field's layout")
    demo.set_defaults(run=_demo)
    generate = commands.add_parser("generate", help="write dirty cubes of the fast simulator as FITS")
    generate.add_argument("--preset", default="paper", help="recipe of the fields: paper, alma")
    generate.add_argument("--n", type=int, default=1, help="number of fields")
    generate.add_argument("--first", type=int, default=0, help="index of the first field")
    generate.add_argument("--seed", type=int, default=1)
    generate.add_argument("--out", required=True, help="folder of the fields")
    generate.set_defaults(run=_generate)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except DeepFocusError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
