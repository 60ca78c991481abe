"""Recordings: labelled arrays on disk that open with `xarray.open_zarr`.

`write_recording` writes what is all in memory; a `Recorder` writes a run while it runs.
"""

from __future__ import annotations

from bpl_neuro.look.recording.recorder import Recorder
from bpl_neuro.look.recording.store import clear_recording, verify_recording, write_recording

__all__ = ["Recorder", "clear_recording", "verify_recording", "write_recording"]
