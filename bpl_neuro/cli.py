"""The command line: ``bpl-neuro list | run | doctor``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bpl_neuro.errors import BplError
from bpl_neuro.experiment import available_simulations, environment, parse_settings, run_simulation
from bpl_neuro.spec import Model, available_models

__all__ = ["app", "main"]

app = typer.Typer(
    help="Rate circuits, written as equations, that learn online with synthetic gradients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()


@app.command("list")
def list_(
    names: Annotated[bool, typer.Option("--names", help="Names of the simulations only, one a line.")] = False,
) -> None:
    """List the simulations and the shipped models."""
    found = available_simulations()
    if names:
        for name in found:
            print(name)
        return
    table = Table("simulation", "what it shows", box=None)
    for name, title in found.items():
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
    size: Annotated[str, typer.Option(help="Size by name: full, quick, and others the simulation has.")] = "full",
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value; may be given several times.")] = None,
    out: Annotated[str | None, typer.Option(help="Run directory; runs/NAME-DATE by default.")] = None,
) -> None:
    """Run a simulation; writes config.toml, summary.json, recording.zarr and figures/."""
    chosen = parse_settings(settings or [])
    if seed is not None:
        chosen["seed"] = seed
    folder = run_simulation(name, size="quick" if quick else size, settings=chosen, out=out)
    console.print(f"figures: {', '.join(str(path) for path in folder.figures)}", soft_wrap=True)
    console.print(f"all of it: {folder.path}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is installed, and check that a model can be compiled and differentiated."""
    table = Table("what", "found", box=None)
    for key, value in environment().items():
        table.add_row(key, str(value) or "not set")
    console.print(table)
    import numpy as np

    from bpl_neuro.circuit import Circuit
    from bpl_neuro.reference import finite_difference_jacobian

    worst = 0.0
    for name in available_models():
        model = Model.load(name)
        circuit = Circuit(model, dict.fromkeys(model.populations, 3), 2)
        rng = np.random.default_rng(0)
        s, x = rng.normal(size=(2, circuit.n)), rng.normal(size=(2, 2))
        exact = circuit.step(circuit.state(s), x).jacobian()
        error = float(np.abs(exact - finite_difference_jacobian(circuit, s, x)).max())
        worst = max(worst, error)
        console.print(f"model {name}: derivative against finite differences, largest difference {error:.1e}")
    if worst > 1e-6:
        raise BplError(f"the derivatives are off by {worst:.1e}; this installation cannot be trusted")


def main() -> None:
    """Entry point: our own errors become one line and exit status 2."""
    try:
        app()
    except BplError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
