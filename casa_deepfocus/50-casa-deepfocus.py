# IPython runs this file in every session of this environment, before CASA's own start-up files.
# In a CASA shell it sees to CASA's data and queues the file that brings in the task; in any other
# session it does nothing. It must never break a session, whatever goes wrong.
def _casa_deepfocus_queue():
    import sys

    shell = sys.modules.get("casashell")
    if shell is None or not shell.flags:
        return
    try:
        from pathlib import Path

        from IPython.core.application import BaseIPythonApplication

        from casa_deepfocus import casa_data

        casa_data.provide()
        files = BaseIPythonApplication.instance().exec_files
        startup = str(Path(casa_data.__file__).with_name("casa_shell.py"))
        # CASA's welcome comes last and runs "casa -c ..." as well: the task must be there before.
        if startup not in files:
            files.insert(max(len(files) - 1, 0), startup)
    except Exception as exc:
        print(f"WARN: casa_deepfocus is not available in this CASA shell ({type(exc).__name__}: {exc})")


_casa_deepfocus_queue()
del _casa_deepfocus_queue
