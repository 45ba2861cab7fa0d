"""Command line of the simulations: ``python -m sim <command>``."""

from __future__ import annotations

import argparse
import sys

from sim import psfbuild


def _psfs(args: argparse.Namespace) -> None:
    size = psfbuild.build_library(args.n, args.seed, progress=lambda text: sys.stdout.write(text + "\n"))
    sys.stdout.write(f"{psfbuild.LIBRARY}: {size / 1e6:.1f} MB\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    psfs = commands.add_parser("psfs", help="build the library of PSFs anew")
    psfs.add_argument("--n", type=int, default=240, help="number of entries")
    psfs.add_argument("--seed", type=int, default=2211)
    psfs.set_defaults(run=_psfs)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
