"""Simulated interferometer data with a known truth: datasets, injection, pictures. See docs/simulation.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casa_deepfocus.errors import DeepFocusError, ParameterError


def _psfs(args: argparse.Namespace) -> int:
    from sim import psfbuild

    path = Path(args.out) if args.out else psfbuild.LIBRARY
    if not args.show:
        psfbuild.build_library(args.n, args.seed, path, progress=lambda text: sys.stdout.write(text + "\n"))
    sys.stdout.write(psfbuild.describe_library(path))
    return 0


def _presets(args: argparse.Namespace) -> int:
    from sim.presets import list_presets, show_preset

    sys.stdout.write(show_preset(args.name) if args.name else list_presets())
    return 0


def _demo(args: argparse.Namespace) -> int:
    from sim.demo import write_demo

    table = write_demo(Path(args.out), args.seed)
    sys.stdout.write(f"{args.out}/demo.ms and {args.out}/truth.ecsv: {len(table)} sources\n")
    return 0


def _archive(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from sim.archive import Recipe, write_archive

    out = Path(args.out)
    recipe = Recipe(**{item.name: getattr(args, item.name) for item in fields(Recipe)})
    for target, (sources, lines) in write_archive(out, recipe).items():
        pointings = sources.meta["pointings"]
        sys.stdout.write(f"{target}: {pointings} pointings, {len(sources)} sources, {len(lines)} lines\n")
    sys.stdout.write(f"{out}: {recipe.executions} measurement sets, the truth in {out / 'truth'}\n")
    return 0


def _pair(text: str) -> tuple[int, int]:
    target, _, window = text.partition(":")
    try:
        return int(target), int(window)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TARGET:WINDOW, such as 2:1") from None


def _generate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from sim.dataset import generate

    # disable=None: on a terminal only.
    with tqdm(desc="cubes", unit="cube", disable=None, leave=False) as bar:

        def progress(done: int, total: int, error: str) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if error and not bar.disable:
                bar.write(f"failed: {error}", file=sys.stderr)

        report = generate(
            args.preset, args.n, args.seed, Path(args.out), backend=args.backend, first=args.first,
            workers=args.workers, cluster=args.cluster, overwrite=args.overwrite, device=args.device,
            products=args.products.split(","), memory_limit=args.memory_limit, progress=progress,
        )  # fmt: skip
    kept = f", {report.kept} stood already" if report.kept else ""
    sys.stdout.write(f"{args.out}: {report.made} cubes made{kept}; {report.sources} sources in truth.ecsv\n")
    for index, error in sorted(report.failed.items()):
        sys.stderr.write(f"cube {index} failed: {error}\n")
    if report.failed:
        sys.stderr.write(f"{len(report.failed)} cubes failed; the same command tries them again\n")
    return 1 if report.failed else 0


def _inject(args: argparse.Namespace) -> int:
    if (args.image is None) == (args.vis is None):
        raise ParameterError("image", args.image, "not clear what to inject into", "give either IMAGE or --vis")
    if args.vis is not None:
        if args.psf or args.pb:
            raise ParameterError("psf", args.psf or args.pb, "of no use with --vis", "leave --psf and --pb out")
        from sim.casa_backend import inject_ms

        inject_ms(Path(args.vis), Path(args.sources), Path(args.out))
        sys.stdout.write(f"{args.out}: the sources of {args.sources} were added\n")
        return 0
    from sim.inject import inject_files

    psf, pb = (Path(name) if name else None for name in (args.psf, args.pb))
    table = inject_files(Path(args.image), Path(args.sources), Path(args.out), psf=psf, pb=pb)
    sys.stdout.write(f"{args.out}/dirty.fits and {args.out}/truth.ecsv: {len(table)} sources were added\n")
    return 0


def _show(args: argparse.Namespace) -> int:
    from sim.show import show

    sys.stdout.write(f"{show(Path(args.folder), Path(args.out) if args.out else None)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    generate = commands.add_parser(
        "generate",
        help="write many dirty cubes of a preset as FITS, with their truth",
        description="Write DIR/<index>/{dirty,psf,pb}.fits and truth.ecsv for every cube, DIR/truth.ecsv of all and "
        "DIR/manifest.json. Cube i depends on preset, seed and i alone; the same command goes on where it stopped.",
        epilog="Example: python -m sim generate --preset alma --n 100 --seed 7 --out set --workers 4",
    )
    generate.add_argument("--preset", default="paper", help="name, or a YAML file (python -m sim presets lists them)")
    generate.add_argument("--n", type=int, default=1, help="number of cubes")
    generate.add_argument("--first", type=int, default=0, help="index of the first cube")
    generate.add_argument("--seed", type=int, default=1, help="of the dataset; cubes of another seed are others")
    generate.add_argument("--backend", default="fast", help="fast (exact, linear) or casa (simulator and tclean)")
    generate.add_argument("--out", required=True, metavar="DIR", help="folder of the dataset")
    generate.add_argument("--products", default="dirty,psf,pb", help="which images to write (the PSFs are the largest)")
    generate.add_argument("--workers", type=int, default=1, help="processes of this machine, one thread each")
    generate.add_argument("--memory-limit", help="of one worker process, such as 4GiB; above it the worker restarts")
    generate.add_argument(
        "--cluster", metavar="FILE", help="YAML file of a dask-jobqueue cluster, or address of a Dask scheduler"
    )
    generate.add_argument("--device", help="such as cuda: Fourier transforms of the fast backend with torch")
    generate.add_argument(
        "--overwrite", action="store_true", help="remove the cubes of an earlier run from DIR and start anew"
    )
    generate.set_defaults(run=_generate)
    show = commands.add_parser(
        "show",
        help="draw a cube: moments, spectra and truth",
        description="Draw moments, spectra and the truth of one cube as a PNG.",
        epilog="Example: python -m sim show set/00000 --out cube.png",
    )
    show.add_argument("folder", help="folder of a cube that generate wrote")
    show.add_argument("--out", metavar="PNG", help="the picture; show.png in the folder by default")
    show.set_defaults(run=_show)
    inject = commands.add_parser(
        "inject",
        help="add sources to an existing dirty image or measurement set",
        description="Add the sources of a YAML file (right ascension, declination, fluxes; docs/simulation.md) to a "
        "dirty FITS image with its PSF and primary beam, or to a copy of a measurement set (CASA).",
        epilog="Examples: python -m sim inject x.image.fits --sources s.yaml --out new; "
        "python -m sim inject --vis x.ms --sources s.yaml --out new.ms",
    )
    inject.add_argument("image", nargs="?", help="dirty FITS image, or folder of a cube that generate wrote")
    inject.add_argument("--vis", metavar="MS", help="measurement set instead of an image; it is not changed")
    inject.add_argument("--sources", required=True, metavar="FILE", help="YAML list of sources")
    inject.add_argument("--out", required=True, help="new folder for dirty, psf, pb and truth, or new measurement set")
    inject.add_argument("--psf", help="FITS image of the PSF; found by name beside the image by default")
    inject.add_argument("--pb", help="FITS image of the primary beam; likewise")
    inject.set_defaults(run=_inject)
    presets = commands.add_parser(
        "presets",
        help="list the presets, or explain one",
        description="List the presets; with a name or a YAML file, all its parameters with unit, range and meaning.",
    )
    presets.add_argument("name", nargs="?", help="of a preset, or a YAML file")
    presets.set_defaults(run=_presets)
    demo = commands.add_parser(
        "demo",
        help="simulate a small measurement set with a known truth (CASA)",
        description="Write demo.ms and truth.ecsv: 20 minutes of 43 ALMA antennas with five sources, by simobserve.",
    )
    demo.add_argument("--out", required=True, metavar="DIR", help="folder for demo.ms and truth.ecsv")
    demo.add_argument("--seed", type=int, default=1, help="of the noise and the field's layout")
    demo.set_defaults(run=_demo)
    _add_archive(commands)
    psfs = commands.add_parser(
        "psfs",
        help="build the library of PSFs anew",
        description="Build sim/psfs.npz, the PSFs that training carries to machines without CASA.",
    )
    psfs.add_argument("--n", type=int, default=300, help="number of entries")
    psfs.add_argument("--seed", type=int, default=2211, help="of the arrays, declinations and tracks drawn")
    psfs.add_argument("--out", metavar="FILE", help="the file to write; sim/psfs.npz by default")
    psfs.add_argument("--show", action="store_true", help="build nothing, say what the file holds")
    psfs.set_defaults(run=_psfs)
    return parser


def _add_archive(commands: Any) -> None:
    archive = commands.add_parser(
        "archive",
        help="simulate measurement sets as the ALMA archive has them (CASA)",
        description="Write one measurement set for every execution, as ALMA's archive delivers them after calibration: "
        "targets, mosaics, spectral windows, calibrators with their intents; and OUT/truth/<target>/sources.ecsv and "
        "lines.ecsv.",
        epilog="Example: python -m sim archive set --targets 3 --windows 4 --mosaic 7 --executions 2 --seed 1",
    )
    archive.add_argument("out", metavar="OUT", help="new folder for the measurement sets and the truth")
    numbers: tuple[tuple[str, int, str], ...] = (
        ("targets", 3, "science targets"),
        ("windows", 4, "spectral windows, of different widths; the first in time division with flagged edges"),
        ("mosaic", 7, "pointings of a mosaic"),
        ("mosaics", 1, "how many of the targets, the first ones, are mosaics"),
        ("executions", 2, "executions, a measurement set each, at other hour angles"),
        ("seed", 1, "of everything that is drawn"),
        ("sources", 4, "sources of a target; a mosaic has a third of its pointings more"),
        ("channels", 128, "the most that a window may have"),
        ("antennas", 16, "of the configuration, evenly taken"),
        ("integrations", 4, "of a pointing at each of two visits, half as many in a mosaic"),
    )
    for name, value, text in numbers:
        archive.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{text} ({value})")
    archive.add_argument("--array", default="alma.cycle9.1", help="configuration of casadata (alma.cycle9.1)")
    archive.add_argument("--integration", type=float, default=30.0, metavar="S", help="one integration [s] (30)")
    archive.add_argument("--snr", type=float, default=1.0, metavar="F", help="factor on the sources' SNRs (1)")
    archive.add_argument("--no-faint", dest="faint", action="store_false", help="no source too faint to be asked for")
    archive.add_argument(
        "--corrected", action="store_true", help="CORRECTED_DATA is calibrated, DATA is not; DATA alone by default"
    )
    archive.add_argument("--single", action="store_true", help="one more window, of a single channel")
    archive.add_argument("--averages", action="store_true", help="a channel-averaged copy of every window (CH_AVG)")
    archive.add_argument("--wvr", action="store_true", help="the window of the water-vapour radiometers")
    archive.add_argument("--moving", action="store_true", help="the last target moves: it has an ephemeris")
    for name, text in (("missing", "a target without data in a window"), ("flagged", "a window all flagged")):
        archive.add_argument(
            f"--{name}", type=_pair, nargs="+", default=(), metavar="T:W", help=f"{text}; from 1, target 0 is all"
        )
    archive.set_defaults(run=_archive)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (DeepFocusError, OSError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it stopped\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
