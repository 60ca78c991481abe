"""The command line: ``bpl-neuro list | run | check | doctor``."""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bpl_neuro.backend import get_backend
from bpl_neuro.checks import path as checked_path
from bpl_neuro.errors import BackendError, BplError, ValidationError
from bpl_neuro.experiment import (
    available_simulations,
    environment,
    load_simulation,
    parse_settings,
    run_simulation,
)
from bpl_neuro.model.isolated import run_isolated
from bpl_neuro.model.spec import Model, available_models
from bpl_neuro.output import lenient_output, open_standard_files
from bpl_neuro.reference import derivative_error

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
DEBUG = "BPL_NEURO_DEBUG"
INTERRUPTED = 130
#: what typer raises for a command line, under whichever name it keeps it
USAGE: Any = typer.BadParameter.__mro__[2]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error as well.")] = False,
) -> None:
    """Rate circuits, written as equations, that learn online with synthetic gradients."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command("list")
def list_(
    names: Annotated[bool, typer.Option("--names", help="Names of the simulations only, one a line.")] = False,
) -> None:
    """List the simulations and the shipped models."""
    simulations = available_simulations()
    if names:
        for name in simulations:
            print(name)
        return
    table = Table("simulation", "what it shows", box=None)
    for name, title in simulations.items():
        table.add_row(name, title)
    console.print(table)
    table = Table("model", "what it is", box=None)
    for name in available_models():
        table.add_row(name, Model.load(name).title)
    console.print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of a simulation; see `bpl-neuro list`.")],
    quick: Annotated[bool, typer.Option("--quick", help="The quick size: seconds, end to end.")] = False,
    size: Annotated[
        str | None, typer.Option(help="Size by name: full (the default), quick, and others the simulation has.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value; may be given several times.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes at a time, in a simulation of many jobs.")] = None,
    out: Annotated[str | None, typer.Option(help="Run directory; runs/NAME-DATE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")] = False,
) -> None:
    """Run a simulation; writes config.toml, summary.json, recording.zarr and figures/."""
    if quick and size is not None:
        raise typer.BadParameter(f"--quick is --size quick, and --size {size} was given as well; leave one out")
    if out is not None:
        checked_path("--out", out)
    chosen = parse_settings(settings or [])
    if seed is not None:
        chosen["seed"] = seed
    if jobs is not None:
        if "jobs" not in load_simulation(name).Config.model_fields:
            raise ValidationError(f"--jobs: {name} is one job; leave it out")
        chosen["jobs"] = jobs
    folder = run_simulation(name, size="quick" if quick else size or "full", settings=chosen, out=out, resume=resume)
    if folder.config.size == "quick":
        console.print("The quick size shows that it runs; its figures and claims say little.")
    console.print(f"figures: {', '.join(str(path) for path in folder.figures)}", soft_wrap=True)
    console.print(f"all of it: {folder.path}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is installed, and hold the derivatives of every shipped model to finite differences."""
    table = Table("what", "found", box=None)
    for key, value in environment().items():
        table.add_row(key, str(value) or "not set")
    for backend, found in (("c", "compiles"), ("cupy", "found a GPU")):
        try:
            table.add_row(f"backend {backend}", f"{get_backend(backend).name}: {found}")
        except BackendError as error:
            table.add_row(f"backend {backend}", escape(str(error)))
    console.print(table)
    for name in available_models():
        _check(name)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a model file (.toml).")],
    isolated: Annotated[
        bool, typer.Option("--isolated", help="In a process of its own, with bounds on its time and memory.")
    ] = False,
) -> None:
    """Read a model, show what was derived from it, and hold its derivatives to finite differences."""
    if isolated:
        raise typer.Exit(run_isolated([sys.executable, "-m", "bpl_neuro.cli", "check", "--", model], model))
    for population in Model.load(model).populations.values():
        neuron = population.neuron
        A, C, D = neuron.derivatives()
        table = Table("what", "derived from the text", box=None, title=population.name, title_justify="left")
        for name, expr in zip(neuron.states, neuron.update, strict=True):
            table.add_row(f"{name}'", str(expr))
        table.add_row("rate", str(neuron.rate))
        for (k, j), expr in A.items():
            table.add_row(f"∂{neuron.states[k]}'/∂{neuron.states[j]}", str(expr))
        for (k, p), expr in C.items():
            table.add_row(f"∂{neuron.states[k]}'/∂{neuron.inputs[p]}", str(expr))
        for j, expr in D.items():
            table.add_row(f"∂rate/∂{neuron.states[j]}", str(expr))
        console.print(table)
    _check(model)


def _check(model: str) -> None:
    error = derivative_error(Model.load(model))
    if math.isinf(error):
        raise BplError(
            f"{model}: the derivatives are no finite numbers at the initial state without input, where learning would "
            "begin; give another initial state, or keep what is under a root or a power away from 0"
        )
    text = f"{model}: derivatives and finite differences differ by {error:.1e} of the largest entry"
    console.print(text, soft_wrap=True)
    if not error < 1e-6:
        raise BplError(f"{model}: the derivatives are off by {error:.1e}; is a state at a kink, or beyond a domain?")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: whatever goes wrong becomes one line on stderr and an exit status, without a traceback.

    1: an error, of ours or not; 2: a command line that cannot be understood; 130: interrupted. With ``--debug`` before
    the command, or the environment variable BPL_NEURO_DEBUG, the traceback is shown as well. Nothing that is printed
    ends a run.
    """
    open_standard_files()
    with lenient_output():
        try:
            status = app(args=arguments, standalone_mode=False)
        except BaseException as error:
            if os.environ.get(DEBUG):
                traceback.print_exc()
            line, status = _in_one_line(error)
            if line:
                print(line, file=sys.stderr)
        else:
            if status == INTERRUPTED:
                print("interrupted", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _in_one_line(error: BaseException) -> tuple[str, int]:
    """What to say of an error, if anything, and the exit status."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, USAGE):
        if not (message := error.format_message()):  # nothing was asked for: the help
            error.show()
            return "", error.exit_code
        return f"error: {_plain(message)}", error.exit_code
    if isinstance(error, BplError):
        return f"error: {_plain(str(error))}", 1
    if isinstance(error, MemoryError):
        return f"error: out of memory: {_plain(str(error)) or 'choose a smaller size'}", 1
    if isinstance(error, RecursionError):
        return "error: nested too deeply to be read", 1
    if isinstance(error, OSError | UnicodeError):
        return f"error: {_plain(str(error)) or type(error).__name__}", 1
    return f"error: {type(error).__name__}: {_plain(str(error))} ({DEBUG}=1 shows where)", 1


def _plain(text: str) -> str:
    """A text in one line, what cannot be printed written out."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


if __name__ == "__main__":
    main()
