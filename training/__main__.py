"""`python -m training COMMAND`, from the root of the repository."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

from casa_deepfocus.errors import DeepFocusError

COMMANDS = {
    "train": "train the networks, or continue",
    "schedule": "train all networks in both stages under one budget",
    "ablate": "compare variants of a network on the same data",
    "curves": "draw the losses of a training",
    "export": "write trained networks as ONNX with their manifest",
    "score": "score a catalogue against a truth table",
    "evaluate": "simulate cubes, search them and score the result",
    "archive": "judge the tables of a whole archive run",
}


def main(arguments: list[str] | None = None) -> int:
    """Hand over to the subcommand; only that module is imported, so that scores need no torch."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    module = None
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            module = importlib.import_module(f"training.{name}")
            module.add_arguments(command)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        return module.run(args)
    except DeepFocusError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
