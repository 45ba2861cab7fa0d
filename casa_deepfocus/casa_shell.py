# Executed by IPython among CASA's own start-up files, in the shell's name space.
try:
    from casa_deepfocus.casa_startup import sdeepfocus  # noqa: F401
except Exception as _exc:
    print(f"WARN: casa_deepfocus is not available in this CASA shell ({type(_exc).__name__}: {_exc})")  # noqa: T201
