# A site configuration for CASA (set CASASITECONFIG to this file), for programs that start CASA on
# their own: the data of the casadata wheel are used where no others are installed. CASA executes
# this file; the names used here are its defaults, and the user's own config.py comes after it.
from casa_deepfocus import casa_data as _casa_data

globals().update(_casa_data.settings(measurespath, datapath))  # type: ignore[name-defined] # noqa: F821
