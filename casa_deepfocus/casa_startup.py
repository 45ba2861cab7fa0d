"""Puts the task into a running CASA shell; imported by the shell's start-up, not by programs.

``from casa_deepfocus.casa_startup import *`` in ~/.casa/startup.py does the same by hand.
"""

from __future__ import annotations

import casashell
from casashell.private.builtin_mgr import register_builtin

import casa_deepfocus.casa.gotasks as _gotasks
from casa_deepfocus.casa.gotasks import sdeepfocus

__all__ = ["sdeepfocus"]

register_builtin("sdeepfocus")
if _gotasks not in casashell.extra_task_modules:
    casashell.extra_task_modules.append(_gotasks)
