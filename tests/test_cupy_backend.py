"""The CuPy backend on a stand-in as strict as CuPy, its kernels on the CPU: the same numbers as NumPy's.

On a machine with a GPU `pytest --gpu` runs the same tests on it.
"""

import inspect
import json
import logging

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from helpers import NONLINEAR, TEXTS
from host_shim import COMPILER
from strict_cupy import FUNCTIONS, Mixed, StrictCupy
from truth import off
from typer.testing import CliRunner

import bpl_neuro as bpl
from bpl_neuro import interventions
from bpl_neuro.backend import CupyBackend, NumpyBackend, get_backend
from bpl_neuro.cli import app
from bpl_neuro.rules import RULES
from bpl_neuro.train import memory

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
CLOSE = 1e-10


@pytest.fixture(scope="module")
def device(request):
    if request.config.getoption("--gpu"):
        return CupyBackend()
    return CupyBackend(StrictCupy())


def trainer_on(
    backend, name="bp_lambda", model="leaky_tanh", schedule="step", dtype="float64", unit=None, theta=None, **options
):
    model = bpl.Model.load(model) if isinstance(model, str) else model
    sizes = dict(zip(model.populations, (4, 3), strict=False))
    circuit = bpl.Circuit(model, sizes, 2, seed=0, radius=0.9, dtype=dtype, backend=backend)
    readout = bpl.Readout(circuit, 2, seed=1)
    on = bpl.Synthesiser(circuit, **(unit or {})) if RULES[name].needs_synthesiser else circuit
    optimiser = {"psi": bpl.Adam(), "phi": bpl.Adam(), "theta": theta or bpl.Adam()}
    return bpl.Trainer(
        circuit, readout, bpl.make_rule(name, on, **options), optimiser=optimiser, schedule=schedule, seed=2
    )


def trials(stream=False, dtype=float):
    rng = np.random.default_rng(0)
    end = None
    if not stream:
        end = np.zeros((3, 7), bool)
        end[:, -1] = end[0, 2] = end[1, 4] = True
    x, y = rng.normal(size=(2, 3, 7, 2)).astype(dtype)
    return bpl.Batch(x, y, end=end, stream=stream)


def learned(trainer, batch, times=2):
    """Parameters, on the host, after some batches."""
    for _ in range(times):
        trainer.train_batch(batch)
    host = trainer.circuit.backend.to_host
    return {key: host(v) for key in ("psi", "phi", "theta") if (v := trainer.parameter(key)) is not None}


def assert_same(device, batch=None, tolerance=CLOSE, **settings):
    batch = trials() if batch is None else batch
    expected, found = (learned(trainer_on(backend, **settings), batch) for backend in ("numpy", device))
    assert expected.keys() == found.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert off(found[name], expected[name]) < tolerance, name


@pytest.mark.parametrize("schedule", ["step", "trial"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_the_same(device, name, schedule):
    options = {"steps": 2} if name in ("nstep_sg", "truncated_bptt") else {}
    if RULES[name].deferred is True and schedule == "step":
        with pytest.raises(bpl.ValidationError, match="trial"):
            trainer_on(device, name=name, schedule=schedule, **options)
        return
    assert_same(device, name=name, schedule=schedule, **options)


@pytest.mark.parametrize("trace", ["full", "lazy", "local", "leak"])
@pytest.mark.parametrize("model", ["linear", "adapting", "lstm", "cerebellar", "ei"])
def test_every_kind_of_model_and_trace(device, model, trace):
    assert_same(device, model=model, trace=trace, gamma=0.9, lam=0.8)


@pytest.mark.parametrize("trace", ["full", "lazy", "local", "leak"])
def test_a_synthesiser_that_saturates_and_one_that_expands(device, trace):
    model = bpl.Model.from_toml(NONLINEAR)
    assert_same(device, model=model, trace=trace, gamma=0.9, lam=0.8)
    unit = {"expansion": 5, "fan_in": 2, "plastic_expansion": True}
    assert_same(device, model=model, trace=trace, gamma=0.9, lam=0.8, unit=unit)


@pytest.mark.parametrize(
    "options",
    [
        {"trace": "reduced", "unit": {"subspace": "random", "dimension": 2}},
        {"trace": "model", "model": "cerebellar"},
        {"feedback": "random", "trace": "full"},
        {"feedback": "sign", "trace": "full"},
        {"feedback": "sign", "trace": "sweep", "schedule": "trial"},
        {"feedback": "sign", "schedule": "trial", "name": "bp_lambda_eprop"},
        {"name": "bp_lambda_eprop", "model": "lstm", "trace": "local"},
        {"name": "snap1", "model": "adapting"},
    ],
)
def test_other_options(device, options):
    assert_same(device, **options)


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"trace": trace, "lam": lam}
            for trace, lam in (("full", 0.7), ("lazy", 0.7), ("local", 0.0), ("local", 0.7))
        ),
        {"trace": "sweep", "schedule": "trial", "lam": 0.7},
        *({"trace": trace, "name": "bp_lambda_eprop", "residual": True} for trace in ("full", "lazy")),
        {"trace": "sweep", "name": "bp_lambda_eprop", "residual": True, "schedule": "trial", "feedback": "sign"},
        {"trace": "lazy", "name": "bp_lambda_eprop", "discounted": True, "gamma": 0.9, "window": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["cerebellar", "lstm"])
def test_a_synthesiser_that_is_compatible_with_the_circuit(device, model, options):
    """θ by least squares, whose rows lack different synapses in the first."""
    assert_same(device, model=model, unit={"target": "current"}, theta=bpl.RLS(0.9, 1e-2), tolerance=1e-8, **options)


def test_the_papers_class_by_least_squares(device):
    for schedule in ("step", "trial"):
        assert_same(device, model="adapting", schedule=schedule, theta=bpl.RLS(0.9, 1e-2), tolerance=1e-8)


def test_a_stream_and_single_precision(device):
    assert_same(device, trials(stream=True), trace="full", gamma=0.9)
    assert_same(device, trials(stream=True), trace="lazy", window=3, gamma=0.9)
    assert_same(device, trials(dtype=np.float32), model="lstm", dtype="float32", trace="local", tolerance=1e-4)


def test_noise_clamps_and_a_checkpoint(device, tmp_path):
    """The noise is drawn on the host: the same trials from the same seeds."""
    text = TEXTS["exact, one state"] | {
        "equations": "dr/dt = (-r + tanh(u)) / tau + 0.3 * xi * tau**-0.5 : 1\nu : 1\ntau : second", "method": "euler",
    }  # fmt: skip
    noisy = bpl.Model.from_equations(rate="r", dt="1*ms", **text)
    ends = []
    for backend in ("numpy", device):
        trainer = trainer_on(backend, model=noisy, trace="full")
        interventions.clamp_units(trainer, "cortex", [1], 0.3)
        interventions.rotate_synthesiser(trainer)
        learned(trainer, trials(), 1)
        trainer.save(tmp_path / "c.npz")
        again = trainer_on(backend, model=noisy, trace="full")
        again.restore(tmp_path / "c.npz")
        ends += [learned(trainer, trials(), 1), learned(again, trials(), 1), learned(again.fork(), trials(), 0)]
    for name, value in ends[0].items():
        for other in ends[1:]:
            assert off(other[name], value) < CLOSE


def states_of(backend, tmp_path):
    """Parameters, on the host, after all that a state can go through."""
    found, custom = [], Own()
    model = bpl.Model.load("cerebellar")
    circuit = bpl.Circuit(model, {"exc": 4, "inh": 3}, 2, seed=0, backend=backend)
    circuit = circuit.with_weights("exc->inh", 0.5 * circuit.backend.to_host(circuit.weights["exc->inh"]))
    circuit = circuit.with_psi(circuit.psi * 0.9).silenced("inh->exc").clamped_at("exc", [1], 0.2)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), trace="lazy", window=3, gamma=0.9)
    optimisers = {"psi": bpl.Clip(bpl.Adam(1e-2), 0.5), "phi": custom, "theta": bpl.SGD(0.1)}
    settings = {"error_delay": 2, "rate_penalty": 0.1, "weight_penalty": 0.1, "update_every": 3}
    readout = bpl.Readout(circuit, 2, seed=1)
    trainer = bpl.Trainer(circuit, readout, rule, optimiser=optimisers, schedule="step", seed=2, **settings)
    trainer.set_parameters(theta=trainer.theta + 0.1)
    seen = []
    learned(trainer, trials(stream=True), 1)
    trainer.train_batch(trials(stream=True), lambda step: seen.extend([step.carry, step.parameter("psi")]))
    trainer.save(tmp_path / "c.npz")
    again = bpl.Trainer(circuit, readout, rule, optimiser=optimisers, schedule="step", seed=2, **settings)
    again.restore(tmp_path / "c.npz")
    fork = interventions.scramble_synthesiser(trainer.fork())
    for other in (trainer, again, fork, interventions.freeze(trainer.fork(), "psi")):
        found.append(learned(other, trials(stream=True), 1))
        found.append(learned(other, trials(), 1))
    trainer.reset()
    return [*found, learned(trainer, trials(), 1), {"psi": circuit.backend.to_host(seen[-1])}]


class Own:
    """A user's optimiser: it gives back what it was given where there is nothing to do."""

    def init(self, backend, parameter):
        return {"seen": backend.xp.zeros_like(parameter)}

    def step(self, backend, parameter, gradient, state):
        return parameter - 0.01 * gradient, {"seen": state["seen"] + abs(gradient)}


def test_all_that_a_state_can_go_through(device, tmp_path):
    expected, found = (states_of(backend, tmp_path) for backend in ("numpy", device))
    assert len(expected) == len(found)
    for right, given in zip(expected, found, strict=True):
        for name, value in right.items():
            assert off(given[name], value) < CLOSE, name


def test_recording_analysis_and_comparison_give_host_arrays(device, tmp_path):
    task = bpl.tasks.TargetReaching(patterns=2, steps=5, batches_per_epoch=2)
    found = []
    for backend in ("numpy", device):
        circuit = bpl.Circuit("leaky_tanh", 4, task.input_size, seed=0, backend=backend)
        rule = bpl.BPLambda(bpl.Synthesiser(circuit), trace="full", gamma=0.9)
        trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule="step")
        names = ["state", "rate", "g", "delta", "c", "trace", "theta", "loss"]
        path = tmp_path / circuit.backend.name
        with bpl.Recorder(trainer, path, names, synapses=[(0, 1), (2, 4)]) as recorder:
            trainer.fit(task, batch_size=4, recorder=recorder, progress=False)
        batch = next(iter(task.batches(np.random.default_rng(0), 4, "train")))
        trained = trainer.trained_circuit(), trainer.trained_readout()
        aligned = bpl.analysis.alignment(*trained, rule, batch, trainer.theta)
        table = bpl.compare(*trained, batch, {"a": rule, "b": bpl.rules.EProp(circuit)})
        synapse = bpl.analysis.synapse_trace(*trained, rule, batch, trainer.theta, (0, 1))
        outputs = trainer.circuit.backend.to_host(trainer.predict(batch.x))
        found.append((xr.open_zarr(path, consolidated=False).load(), aligned, table, synapse, outputs))
    for expected, given in zip(*found, strict=True):
        if isinstance(expected, np.ndarray):
            assert off(given, expected) < CLOSE
        else:
            for key in expected.data_vars:
                np.testing.assert_allclose(given[key], expected[key], rtol=1e-7, atol=1e-9)


#: small: the quick sizes run on NumPy in .ci/run, and here the two backends are held to one another
SMALL = {
    "copy-repeat": ["batches=12", "units=8", "batch_size=10", "threshold=1.1", 'record=["loss"]'],
    "delayed-reach": ["batches=4", "fork_at=2", "batch_size=4", "exc=8", "expansion=10"],
    "row-mnist": ["train_size=100", "units=4", "batch_size=20"],
}


@pytest.mark.stage
@pytest.mark.parametrize("name", SMALL)
def test_simulations_from_the_command_line(name, tmp_path, monkeypatch, undrawn, request):
    if name == "row-mnist":
        request.getfixturevalue("mnist_folder")
    if not request.config.getoption("--gpu"):
        monkeypatch.setattr("bpl_neuro.backend.cupy_backend._cupy", StrictCupy)
    summaries = []
    for backend in ("numpy", "cupy"):
        out = tmp_path / backend
        settings = [f"--set={pair}" for pair in (f"backend={backend}", *SMALL[name])]
        result = CliRunner().invoke(app, ["run", name, "--quick", "--out", str(out), *settings])
        assert result.exit_code == 0, result.output
        assert f'backend = "{backend}"' in (out / "config.toml").read_text()
        summaries.append(json.loads((out / "summary.json").read_text()))
    numbers = [{k: v for k, v in s.items() if "loss" in k or "solved" in k} for s in summaries]
    assert name != "copy-repeat" or numbers[0]["lam=1.solved.max"] > 1  # the curriculum moves
    assert numbers[0] and numbers[0].keys() == numbers[1].keys()
    for key, value in numbers[0].items():
        assert numbers[1][key] == pytest.approx(value, rel=0.02), key  # single precision


# Kernels against NumPy, one by one. Sizes: 1, primes, and what is no multiple of a block.


def expressions():
    x, y, p = sp.symbols("x y p")
    from bpl_neuro.model.functions import (
        above,
        absolute,
        between,
        clip,
        expm1,
        exprel,
        exprel_slope,
        log1p,
        sigmoid,
        softplus,
    )
    from bpl_neuro.model.functions import sign as sgn

    calls = [
        sp.exp(x), sp.log(x**2 + p), sp.sqrt(y**2 + 1), sp.sin(x), sp.cos(y), sp.tan(p * x), sp.asin(sp.tanh(x)),
        sp.acos(sp.tanh(y)), sp.atan(x), sp.sinh(x), sp.cosh(y), sp.tanh(x - y), expm1(x), log1p(x**2), exprel(x),
        exprel(p * sp.Float(1e-7)), exprel_slope(x), exprel_slope(x / 1000), absolute(x), sgn(y), clip(x, -p, sp.oo),
        between(x, -p, p), above(x, y), sigmoid(50 * x), softplus(-40 * y), x**3 - 2 / y**2, p * y, 2 * p,
        (x**2 + 1) ** sp.Rational(3, 10), sp.Integer(3),
    ]  # fmt: skip
    return [[x, y], [p]], calls


@pytest.mark.parametrize("shape", [(1, 1), (1, 31), (7, 13), (3, 257), (513, 2)])
@pytest.mark.parametrize("constant", ["number", "one for each neuron"])
def test_every_function_as_a_kernel(device, shape, constant):
    groups, results = expressions()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, *shape, 2))[..., 0]  # strided
    p = 0.7 if constant == "number" else rng.uniform(0.1, 0.9, shape[1])
    expected = NumpyBackend().elementwise("f", groups, results)([x, y], [p])
    put = device.asarray
    wide = put(rng.normal(size=(*shape, 2)))
    wide[..., 0], wide[..., 1] = put(x), put(y)
    found = device.elementwise("f", groups, results)(
        [wide[..., 0], wide[..., 1]], [p if isinstance(p, float) else put(p)]
    )
    for expr, right, given in zip(results, expected, found, strict=True):
        if isinstance(right, float | int):
            assert given == pytest.approx(right), expr
        else:
            right = np.broadcast_to(right, given.shape)  # a kernel makes no difference between (N,) and (B, N)
            np.testing.assert_allclose(device.to_host(given), right, rtol=1e-11, atol=1e-13, err_msg=str(expr))


@pytest.mark.parametrize("signals", ["none", "now", "late", "both"])
@pytest.mark.parametrize(
    ("S", "P", "B", "N", "m"),
    [(1, 1, 1, 1, 1), (1, 1, 1, 300, 7), (2, 3, 5, 7, 11), (3, 2, 2, 1, 257), (2, 3, 64, 3, 5)],
)
@pytest.mark.parametrize("keys", ["all", "diagonal", "none"])
def test_one_pass_over_local_traces(device, S, P, B, N, m, keys, signals):
    """Both backends against the sums written out."""
    rng = np.random.default_rng(0)
    chosen = {"all": [(k, q) for k in range(S) for q in range(S)], "diagonal": [(k, k) for k in range(S)], "none": []}
    F = {key: [rng.normal(size=(B, N)), rng.normal(size=N), 0.9][sum(key) % 3] for key in chosen[keys]}
    G = {(k, p): rng.normal(size=(B, N)) if k else 0.5 for k in range(S) for p in range(P) if (k + p) % 2 == 0}
    e, z = rng.normal(size=(S, B, N, P, m)), rng.normal(size=(B, m))
    late, now = rng.normal(size=(2, B, N, S))
    new = np.zeros_like(e)
    for (k, q), f in F.items():
        new[k] += np.broadcast_to(f, (B, N))[..., None, None] * e[q]
    for (k, p), g in G.items():
        new[k][:, :, p] += np.broadcast_to(g, (B, N))[..., None] * z[:, None]
    out = np.zeros((P, N, m))
    given = {"late": late, "now": now}
    given = {key: v for key, v in given.items() if signals in (key, "both")}
    if "late" in given:
        out += np.einsum("bil,lbipj->pij", late, e)
    if "now" in given:
        out += np.einsum("bil,lbipj->pij", now, new)
    for backend in (NumpyBackend(), device):
        put = backend.asarray
        moved, total = put(e.copy()), put(np.full((N, P, m), np.nan)).transpose(1, 0, 2)
        factors = [{key: put(v) if np.ndim(v) else v for key, v in part.items()} for part in (F, G)]
        views = {key: [put(v)[..., k] for k in range(S)] for key, v in given.items()}
        backend.local_pass(moved, *factors, put(z), total if given else None, **views)
        np.testing.assert_allclose(backend.to_host(moved), new, rtol=1e-12, atol=1e-12)
        if given:
            np.testing.assert_allclose(backend.to_host(total), out, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [1, 31, 256, 257, 1021])
@pytest.mark.parametrize("bound", [{}, {"most": 0.2}])
def test_adam_as_a_kernel(device, size, bound):
    rng = np.random.default_rng(0)
    arrays = [*rng.normal(size=(3, size)), rng.random(size)]
    numbers = {"rate": 0.1, "beta1": 0.9, "beta2": 0.98, "correction2": 0.3, "epsilon": 1e-9, **bound}
    expected = NumpyBackend().adam(*arrays, **numbers)
    found = device.adam(*map(device.asarray, arrays), **numbers)
    for right, given in zip(expected, found, strict=True):
        np.testing.assert_allclose(device.to_host(given), right, rtol=1e-13)


@pytest.mark.parametrize(("B", "R", "m"), [(1, 1, 1), (3, 5, 7), (2, 129, 3)])
@pytest.mark.parametrize("number", [False, True])
def test_outer_products_are_added_in_place(device, B, R, m, number):
    rng = np.random.default_rng(0)
    target, z = rng.normal(size=(B, R, m + 2)), rng.normal(size=(B, m))
    slope = 0.7 if number else rng.normal(size=(B, R))
    found = device.asarray(target)
    device.add_outer(found[:, :, 1:-1], slope if number else device.asarray(slope), device.asarray(z))
    target[:, :, 1:-1] += (slope if number else slope[..., None]) * z[:, None]
    np.testing.assert_allclose(device.to_host(found), target, rtol=1e-14)


# Memory


def test_what_cannot_fit_is_refused_before_the_run_with_what_would():
    small = CupyBackend(StrictCupy(free=2_000_000))

    def make(trace):
        circuit = bpl.Circuit("lstm", 12, 2, backend=small)
        rule = bpl.BPLambda(bpl.Synthesiser(circuit), trace=trace)
        return bpl.Trainer(circuit, bpl.Readout(circuit, 2), rule, schedule="step")

    batch = bpl.Batch(np.zeros((20, 5, 2)), np.zeros((20, 5, 2)))
    trainer = make("full")
    words = r'need .* MiB are free; \d+ trials a batch would fit; so would trace="sweep" per trial.*trace="lazy"'
    with pytest.raises(bpl.BackendError, match=words) as error:
        trainer.train_batch(batch)
    fitting = int(str(error.value).split("free; ")[1].split(" trials")[0])
    assert sum(trainer.plan(fitting, 5).values()) <= 2_000_000 < sum(trainer.plan(fitting + 1, 5).values())
    trainer.train_batch(batch[:fitting])
    make("lazy").train_batch(batch)
    with pytest.raises(bpl.BackendError, match="not even one"):
        trainer_on(CupyBackend(StrictCupy(free=100)), trace="local").train_batch(batch)


def test_a_stream_is_planned_like_trials_for_its_state_is_moved_on_in_place():
    trainer = trainer_on("numpy", trace="full")
    whole, piece = (memory.plan(trainer, 3, 7, stream) for stream in (False, True))
    assert piece == whole and whole["rule"] > 0


def test_a_shape_of_batches_is_planned_once(monkeypatch):
    seen, original = [], memory.plan

    def counted(*arguments):
        seen.append(arguments[1:])
        return original(*arguments)

    monkeypatch.setattr(memory, "plan", counted)
    trainer = trainer_on(CupyBackend(StrictCupy()), trace="full")
    for batch in [*[trials(stream=True)] * 3, *[trials()] * 2]:
        trainer.train_batch(batch)
    assert seen == [(3, 7, True), (3, 7, False)]


# What must not happen


def test_nothing_moves_between_host_and_device_by_itself():
    strict = CupyBackend(StrictCupy())
    circuit = bpl.Circuit("leaky_tanh", 3, 2, backend=strict)
    with pytest.raises(Mixed, match="device"):
        circuit.step(circuit.initial_state(2), np.zeros((2, 2)))
    with pytest.raises(Mixed, match="Implicit"):
        np.asarray(circuit.psi)
    with pytest.raises(bpl.BackendError, match="host"):
        strict.add_outer(strict.asarray(np.zeros((1, 1, 1))), np.zeros((1, 1)), strict.asarray(np.zeros((1, 1))))
    with pytest.raises(bpl.BackendError, match="shape"):
        strict.add_outer(
            strict.asarray(np.zeros((1, 2, 1))), strict.asarray(np.zeros((1, 3))), strict.asarray(np.zeros((1, 1)))
        )


def test_a_result_that_no_array_enters_is_not_spoilt_by_one_that_divides_by_zero():
    x, p = sp.symbols("x p")
    strict = CupyBackend(StrictCupy())
    found = strict.elementwise("f", [[x], [p]], [x / (x - 1), 1 - p, 1 / x])(
        [strict.asarray(np.ones((1, 2)) * 2)], [0.25]
    )
    assert found[1] == 0.75
    np.testing.assert_allclose(strict.to_host(found[0]), 2)


def test_both_backends_have_the_same_methods():
    public = [name for name in vars(NumpyBackend) if not name.startswith("_") and callable(getattr(NumpyBackend, name))]
    assert {"asarray", "to_host", "elementwise", "write", "local_pass", "adam", "add_outer", "free_memory"} <= set(
        public
    )
    for name in public:
        ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (NumpyBackend, CupyBackend))
        assert ours == theirs, name


def test_functions_of_the_stand_in_are_those_of_cupy():
    cupy = pytest.importorskip("cupy")
    assert [name for name in FUNCTIONS if not hasattr(cupy, name)] == []


def test_a_missing_gpu_is_named_and_auto_says_what_it_took(monkeypatch, caplog):
    import bpl_neuro.backend.cupy_backend as module

    def none():
        raise bpl.BackendError('`backend` = "cupy" needs an NVIDIA GPU')

    monkeypatch.setattr(module, "_cupy", none)
    with pytest.raises(bpl.BackendError, match="NVIDIA GPU"):
        bpl.Circuit("linear", 3, 2, backend="cupy")
    with caplog.at_level(logging.INFO, logger="bpl_neuro"):
        assert bpl.Circuit("linear", 3, 2, backend="auto").backend.name == "numpy"
    assert "numpy" in caplog.text and "GPU" in caplog.text
    with pytest.raises(bpl.BackendError, match="auto"):
        get_backend("cuda")
