"""Other source finders on the same simulated cubes: ``python -m benchmarks peers``.

Only adapters live here: each finder is found on this machine (docs/evaluation.md), runs in a process of
its own, and its catalogue is turned into our columns and scored by `training.score`.
"""

from benchmarks.peers.compare import add_arguments, run

__all__ = ["add_arguments", "run"]
