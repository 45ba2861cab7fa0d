"""Run a program and write its wall time and peak memory: ``python measure.py REPORT PROGRAM [ARGUMENT ...]``.

A process of its own, as a child's peak memory begins with that of the process it was forked from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

if __name__ == "__main__":
    start = time.perf_counter()
    child = subprocess.Popen(sys.argv[2:])
    # Of this child and of those that it waited for.
    _, status, usage = os.wait4(child.pid, 0)
    report = {
        "seconds": time.perf_counter() - start,
        "memory": usage.ru_maxrss / (1024.0 if sys.platform != "darwin" else 1024.0**2),
    }
    with open(sys.argv[1], "w", encoding="utf-8") as stream:
        json.dump(report, stream)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)
