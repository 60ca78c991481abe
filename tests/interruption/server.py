"""Interrupts a simulation at its k-th operation on files, for every k, goes on with it, and compares.

    python server.py '{"simulation": …, "settings": {…}, "folder": …, "modes": {"kill": 1, …}}'

Run with shim.c preloaded. Python, the package and its models are loaded once; every attempt is a fork of this process.
Prints a JSON line for each mode: how many were right, refused (a full disk, said by one BplError) and gone on with, and
examples of what was not.
"""

import ctypes
import functools
import gc
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

import bpl_neuro as bpl
from bpl_neuro import experiment, run_folder, storage
from bpl_neuro.locks import LOCK

COUNT, KILL, TEAR, FULL_ONCE, FULL = range(5)
#: what a child process ended with
FINE, REFUSED, RAW = 0, 10, 11
SHIM = ctypes.CDLL(None)
#: in the records of jobs: how long it took
TIMES = re.compile(r'"ms_per_batch": [^,}]+')


def run_here(spec, folder, resume):
    """The simulation in this process; its jobs, too, one after the other."""
    module = experiment.load_simulation(spec["simulation"])
    if hasattr(module, "draw"):  # a picture tells nothing that the arrays do not, and takes most of the time
        module.draw = lambda *arguments: None
    if hasattr(module, "run_jobs"):
        module.run_jobs = lambda function, calls, jobs, title: [function(*arguments) for arguments in calls.values()]
    experiment.run_simulation(spec["simulation"], size="quick", settings=spec["settings"], out=folder, resume=resume)


def in_place(path, data):
    """A writer with a fault, which must be found: it writes into the file itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def attempt(spec, folder, resume, at=0, mode=COUNT):
    """What a fork came to that runs the simulation, armed with a mode; and what it printed of an error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        sys.stdout = sys.stderr = io.StringIO()
        code, text = FINE, ""
        SHIM.shim_arm(str(folder).encode(), ctypes.c_long(at), mode)
        try:
            run_here(spec, folder, resume)
            text = str(SHIM.shim_count())
        except bpl.BplError as error:
            code, text = REFUSED, str(error)
        except BaseException:
            code, text = RAW, traceback.format_exc()[-1500:]
        os.write(writer, text.encode()[:60000])
        os._exit(code)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def numbers(data):
    """The members of an npz file; a zip also says when it was made."""
    with np.load(io.BytesIO(data)) as arrays:
        return b"".join(name.encode() + np.asarray(arrays[name]).tobytes() for name in sorted(arrays.files))


def content(folder):
    """All that a complete run says: name of a file → its content, or that of its arrays."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "recording.zarr/" in name or name in ("config.toml", LOCK):
            continue
        data = path.read_bytes()
        if path.suffix == ".npz":
            data = numbers(data)
        elif path.suffix == ".json":
            data = TIMES.sub("", data.decode()).encode()
        found[name] = data
    stores = [folder / "recording.zarr", *(p.parent for p in sorted(folder.glob("recording.zarr/*/.zmetadata")))]
    for store in stores:
        with xr.open_zarr(store) as recording:
            recording.load()
        named = {**recording.variables}
        found[str(store.relative_to(folder))] = [
            (k, v.dims, json.dumps(v.attrs, default=str), v.values.dtype.str, v.values.tobytes())
            for k, v in sorted(named.items())
        ] + [json.dumps(recording.attrs, default=str)]
    return found


def state(folder):
    """A name for what lies in a folder: an interruption that leaves the same goes on in the same way."""
    parts = []
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"\.[0-9a-f]{8}\.part", ".part", str(path.relative_to(folder)))
        if path.is_file() and path.name != LOCK:
            data = path.read_bytes()
            if path.suffix == ".npz":
                data = numbers(data)
            name += hashlib.sha256(TIMES.sub("", data.decode("latin-1")).encode("latin-1")).hexdigest()
        parts.append(name)
    return "\n".join(sorted(parts))


def difference(expected, found):
    """What differs, in words; nothing where they are the same to the bit."""
    if expected.keys() != found.keys():
        return f"files differ: {sorted(expected.keys() ^ found.keys())[:5]}"
    return ", ".join(name for name in expected if expected[name] != found[name])


class Series:
    """All interruptions of one kind."""

    def __init__(self, spec, name, mode, whole, operations, seen):
        self.spec, self.mode, self.whole, self.operations, self.seen = spec, mode, whole, operations, seen
        self.result = {"mode": name, "operations": operations, "tried": 0, "right": 0, "refused": 0, "resumed": 0,
                       "raw": [], "wrong": []}  # fmt: skip

    def run(self):
        chosen = range(1, min(self.operations, self.spec.get("first", self.operations)) + 1)
        if sample := self.spec.get("sample"):
            chosen = sorted(np.random.default_rng(self.mode).choice(chosen, min(sample, len(chosen)), replace=False))
        for at in map(int, chosen):
            self.one(at)
        return self.result

    def one(self, at):
        folder = Path(self.spec["folder"]) / "part"
        shutil.rmtree(folder, ignore_errors=True)
        code, text = attempt(self.spec, folder, False, at, self.mode)
        self.result["tried"] += 1
        where = f"operation {at}"
        killed = self.mode in (KILL, TEAR)
        if not killed and code == RAW:
            return self.result["raw"].append(f"{where}: {text}")
        if killed and code != -9:
            return self.result["wrong"].append(f"{where}: was not killed but ended with {code}: {text}")
        if code == REFUSED:
            self.result["refused"] += 1
        if code != FINE:
            left = state(folder) if folder.exists() else ""
            if left not in self.seen:
                self.seen[left] = self.gone_on(folder)
                self.result["resumed"] += 1
            wrong = self.seen[left]
        else:
            wrong = difference(self.whole, content(folder))
        if wrong:
            return self.result["wrong"].append(f"{where}: {wrong}")
        self.result["right"] += 1

    def gone_on(self, folder):
        """What is wrong with the run that goes on, unless it was complete: only the disk was slow to say so."""
        if (folder / "summary.json").exists():
            return difference(self.whole, content(folder))
        code, text = attempt(self.spec, folder, True)
        return f"did not go on: {text}" if code != FINE else difference(self.whole, content(folder))


def main():
    warnings.simplefilter("ignore")
    spec = json.loads(sys.argv[1])
    base = Path(spec["folder"])
    run_folder.save_figure = lambda fig, path: run_folder.atomic_write(path, b"\x89PNG")
    run_folder.environment = functools.cache(run_folder.environment)
    if spec.get("fault"):
        storage._replace = in_place
    run_here(spec, base / "warm", False)
    code, text = attempt(spec, base / "whole", False, 0, COUNT)
    assert code == FINE, text
    gc.freeze(), gc.disable()  # a fork copies what the collector touches
    whole, seen = content(base / "whole"), {}
    assert not (apart := difference(whole, content(base / "warm"))), apart
    for name, mode in spec["modes"].items():
        begun = time.monotonic()
        # a mode that never comes to its operation counts those it has
        code, text = attempt(spec, base / name, False, 10**9, mode)
        assert code == FINE and not (apart := difference(whole, content(base / name))), text or apart
        result = Series(spec, name, mode, whole, int(text), seen).run()
        print(
            json.dumps(result | {"distinct": len(seen), "seconds": round(time.monotonic() - begun, 1)}),
            file=sys.__stdout__,
            flush=True,
        )


main()
