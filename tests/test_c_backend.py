"""The C backend against NumPy's: the same gradients, states and learning, to rounding."""

from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from compiling import COMPILER
from helpers import TEXTS

import bpl_neuro as bpl
from bpl_neuro import interventions
from bpl_neuro.backend import CBackend, CupyBackend, NumpyBackend, c_backend
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.model.functions import FUNCTIONS
from bpl_neuro.rules import RULES
from bpl_neuro.train.loop import batch_updates

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
#: of norms, in float64
CLOSE = 1e-12


def apart(found, expected):
    """The norm of the difference over that of what is expected; what is not finite must be the same."""
    found, expected = (np.asarray(value, float).ravel() for value in (found, expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    size = max(np.abs(expected[finite]).max(initial=0), 1e-300)  # squares overflow
    return np.linalg.norm((found / size - expected / size)[finite]) / max(
        np.linalg.norm(expected[finite] / size), 1e-300
    )


def circuit_on(backend, model="lstm", dtype="float64", radius=1.5, **options):
    model = bpl.Model.load(model) if isinstance(model, str) else model
    sizes = dict(zip(model.populations, (7, 5, 4), strict=False))
    return bpl.Circuit(model, sizes, 3, seed=0, radius=radius, dtype=dtype, backend=backend, **options)


def trials(circuit, B=4, T=9):
    """With ends on the way."""
    rng, end = np.random.default_rng(0), np.zeros((B, T), bool)
    end[:, -1] = end[0, 3] = end[1, 5] = True
    x, y = rng.normal(size=(B, T, 3)), rng.normal(size=(B, T, 2))
    return bpl.Batch(x.astype(circuit.dtype), y.astype(circuit.dtype), end=end)


def gradients(circuit, name="bptt", unit=None, **options):
    """Of one batch with frozen parameters, and of θ that is not zero."""
    needs = RULES[name].needs_synthesiser
    on = bpl.Synthesiser(circuit, **(unit or {})) if needs else circuit
    theta = 0.1 * np.random.default_rng(1).normal(size=on.layout.size).astype(circuit.dtype) if needs else None
    rule = bpl.make_rule(name, on, **options)
    return batch_updates(circuit, bpl.Readout(circuit, 2, seed=1), rule, trials(circuit), theta, noise_seed=3).gradients


def off(settings=None, prepare=lambda circuit: circuit, name="bptt", unit=None, **options):
    """The largest distance between gradients by NumPy and by C."""
    expected, found = (
        gradients(prepare(circuit_on(backend, **(settings or {}))), name, unit, **options) for backend in ("numpy", "c")
    )
    assert expected.keys() == found.keys()
    return max(apart(found[key], expected[key]) for key in expected)


#: of every rule the forms that go different ways
WAYS = [
    *((name, {"steps": 2} if name in ("nstep_sg", "truncated_bptt") else {}) for name in RULES),
    *(("bp_lambda", {"trace": trace, "lam": 0.7, "gamma": 0.9}) for trace in ("sweep", "full", "lazy", "local")),
    ("bp_lambda", {"trace": "lazy", "window": 2}),
    ("bp_lambda", {"trace": "sweep", "lam": 0.0}),
    ("bp_lambda", {"trace": "sweep", "feedback": "random"}),
    *((name, {"trace": "sweep"}) for name in ("eprop", "snap1", "rflo", "bp_lambda_eprop")),
    *(("bp_lambda", {"trace": trace, "unit": {"target": "current"}}) for trace in ("sweep", "lazy", "full")),
    *(("bp_lambda", {"trace": trace, "unit": {"target": "current"}, "lam": 0.6}) for trace in ("sweep", "lazy")),
    *(("bp_lambda", {"trace": trace, "unit": {"target": "current"}, "lam": 0.0}) for trace in ("sweep", "lazy")),
    *(
        ("bp_lambda_eprop", {"trace": trace, "unit": {"target": "current"}, "residual": True})
        for trace in ("sweep", "lazy")
    ),
]


@pytest.mark.parametrize(("name", "options"), WAYS, ids=str)
@pytest.mark.parametrize("model", ["lstm", "cerebellar"])
def test_every_rule_gives_the_same_gradients(model, name, options):
    assert off({"model": model}, name=name, **options) < CLOSE


@pytest.mark.parametrize("name", ["bptt", "eprop"])
@pytest.mark.parametrize("model", bpl.available_models())
def test_every_model_gives_the_same_gradients(model, name):
    assert off({"model": model}, name=name) < CLOSE


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_all_kinds(text):
    model = bpl.Model.from_equations(rate="r", dt="1*ms", **TEXTS[text])
    assert off({"model": model, "radius": 0.05}) < CLOSE


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("model", bpl.available_models())
def test_a_run_gives_the_same_states(model, dtype):
    x = np.random.default_rng(0).normal(size=(3, 300, 3))  # more steps than are taken at once
    expected, found = (circuit_on(backend, model, dtype, radius=0.9).run(x, noise_seed=1) for backend in ("numpy", "c"))
    for right, given in zip(expected, found, strict=True):
        assert given.dtype == right.dtype == np.dtype(dtype)
        assert apart(given, right) < {"float64": CLOSE, "float32": 2e-3}[dtype]


@pytest.mark.parametrize("name", ["bptt", "bp_lambda", "eprop"])
@pytest.mark.parametrize("model", bpl.available_models())
def test_single_precision(model, name):
    assert off({"model": model, "dtype": "float32"}, name=name) < 2e-4


def test_clamped_and_silent_units_masks_and_parameters_of_each_neuron():
    def prepare(circuit):
        return circuit.silenced("inh->exc").clamped_at("exc", [1, 3], 0.3).clamped_at("inh", [0], -0.2)

    rng = np.random.default_rng(0)
    parameters = {"exc.tau": rng.uniform(0.02, 0.1, 7), "exc.sigma": rng.uniform(0, 0.1, 7)}
    for name in ("bptt", "bp_lambda", "eprop"):
        assert off({"model": "cerebellar", "parameters": parameters}, prepare, name=name) < CLOSE


def test_projections_onto_some_inputs_of_a_population():
    text = (Path(bpl.__file__).parent / "models" / "lstm.toml").read_text(encoding="utf-8")
    for pre, port in (
        ("input", "u_in"),
        ("input", "u_cell"),
        ("cell", "u_in"),
        ("cell", "u_forget"),
        ("cell", "u_out"),
    ):
        text += f'[[projections]]\nfrom = "{pre}"\nto = "cell.{port}"\n'
    assert off({"model": bpl.Model.from_toml(text)}) < CLOSE


def trainer_on(backend, name, schedule, model="cerebellar", **options):
    circuit = circuit_on(backend, model)
    on = bpl.Synthesiser(circuit) if RULES[name].needs_synthesiser else circuit
    rule = bpl.make_rule(name, on, **options)
    sgd = bpl.SGD(1e-2)
    optimiser = {"psi": bpl.Adam(1e-2, epsilon=1e-2), "phi": sgd, "theta": sgd}
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2), rule, optimiser=optimiser, schedule=schedule, seed=2)


@pytest.mark.parametrize("schedule", ["step", "trial"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_the_same(name, schedule):
    if RULES[name].deferred is True and schedule == "step":
        return
    options = {"steps": 2} if name in ("nstep_sg", "truncated_bptt") else {}
    expected, found = (trainer_on(backend, name, schedule, **options) for backend in ("numpy", "c"))
    for _ in range(2):
        for trainer in (expected, found):
            trainer.train_batch(trials(trainer.circuit))
    for key in ("psi", "phi", "theta"):
        if (right := expected.parameter(key)) is not None:
            assert apart(found.parameter(key), right) < CLOSE, key


def test_a_fork_left_alone_and_a_restored_run_are_the_same_to_the_bit(tmp_path):
    trainer = trainer_on("c", "bp_lambda", "step", trace="lazy")
    interventions.clamp_units(trainer, "exc", [1], 0.3)
    batch = trials(trainer.circuit)
    trainer.train_batch(batch)
    trainer.save(tmp_path / "c.npz")
    fork, again = trainer.fork(), trainer_on("c", "bp_lambda", "step", trace="lazy")
    again.restore(tmp_path / "c.npz")
    for other in (trainer, fork, again):
        other.train_batch(batch)
        np.testing.assert_array_equal(other.parameter("psi"), trainer.parameter("psi"))


def test_a_step_has_the_same_bits_linearised_and_not():
    circuit = circuit_on("c")
    batch = trials(circuit)
    begun = circuit.initial_state(4)
    assert np.array_equal(
        circuit.step(begun, batch.x[:, 0]).new.s, circuit.step(begun, batch.x[:, 0], linearise=False).new.s
    )


HOSTILE = [0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -1e-310, 1e308, -1e308, 1e-8, 700.0, -700.0, 40.0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_hostile_values(name):
    function = FUNCTIONS[name]
    symbols = sp.symbols(f"s0:{function.arguments}", real=True)
    values = np.meshgrid(*[HOSTILE] * function.arguments)
    x = [np.ascontiguousarray(value.reshape(1, -1)) for value in values]
    if function.arguments == 3:  # bounds are numbers
        x[1:] = [-1.0, 2.0]
    with np.errstate(all="ignore"):
        expected, found = (
            backend.elementwise("f", [symbols], [function.form(*symbols)])(x)[0]
            for backend in (NumpyBackend(), CBackend())
        )
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-306)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("model", ["lstm", "adapting", "threshold_linear", "cerebellar"])
def test_inputs_of_hostile_values(model, value, monkeypatch):
    monkeypatch.setattr(Circuit, "_own_inputs", lambda self, x: x)  # which refuses what is not finite
    x = np.random.default_rng(0).normal(size=(3, 5, 3))
    x[1, 2, 0] = value
    with np.errstate(all="ignore"):
        expected, found = (circuit_on(backend, model, radius=0.9).run(x) for backend in ("numpy", "c"))
        for right, given in zip(expected, found, strict=True):
            assert apart(given[[0, 2]], right[[0, 2]]) < CLOSE
            np.testing.assert_array_equal(np.isnan(given), np.isnan(right))
            assert apart(given[:, :3], right[:, :3]) < CLOSE


def test_a_state_that_is_not_finite_is_still_said():
    trainer = trainer_on("c", "bptt", "trial", "threshold_linear")
    batch = trials(trainer.circuit)
    batch.x[1, 2, 0] = np.nan
    with pytest.raises(bpl.DivergenceError, match="state"):
        trainer.train_batch(batch)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_of_traces_and_parameters(dtype):
    rng, c, plain = np.random.default_rng(0), CBackend(), NumpyBackend()

    def random(*shape):
        return rng.normal(size=shape).astype(dtype)

    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for S, B, N, P, m in [(1, 1, 1, 1, 1), (2, 3, 5, 2, 700), (2, 4, 3, 1, 7)]:
        F = {(0, 0): random(B, N), (S - 1, 0): 0.5, (0, S - 1): random(N)}
        G, z, e = {(0, P - 1): random(B, N), (S - 1, 0): 0.3}, random(B, 2 * m)[:, ::2], random(S, B, N, P, m)
        signal = [random(B, 2 * N)[:, ::2] for _ in range(S)]
        found = []
        for backend in (plain, c):
            moved, out = e.copy(), np.zeros((N, P, m), dtype).transpose(1, 0, 2)
            backend.local_pass(moved, F, G, z, out, late=signal, now=signal)
            total = np.zeros((P, N, m), dtype)
            backend.trace_sum(moved, signal, total)
            added = random(B, N, m + 2) * 0 + 1
            backend.add_outer(added[:, :, 1:-1], signal[0], z)
            backend.add_outer(added[:, :, 1:-1], 0.7, z)
            found.append((moved, out, total, added))
        for right, given in zip(*found, strict=True):
            np.testing.assert_allclose(given, right, **close)
    numbers = {"rate": 0.1, "beta1": 0.9, "beta2": 0.98, "correction2": 0.3, "epsilon": 1e-9, "most": 0.2}
    arrays = [*random(3, 1021), np.abs(random(1021))]
    for right, given in zip(plain.adam(*arrays, **numbers), c.adam(*arrays, **numbers), strict=True):
        np.testing.assert_allclose(given, right, **close)


def mutants():
    """Terms that are dropped: of a kernel made from equations, and of the loops."""
    return {
        "kernel": lambda source: source.replace(" + ", " + 0 * ") if "void kernel(" in source else source,
        "errors": lambda source: source.replace("v[i] += errors[i * S + k]", "v[i] += 0 * errors[i * S + k]"),
        "own past": lambda source: source.replace("to[q] = from[q] * f[q]", "to[q] = 0 * from[q] * f[q]"),
        "recurrent": lambda source: source.replace("p->w, 1, p->u.at", "p->w, 0, p->u.at"),
        "restart": lambda source: source.replace("x->end[t * x->B + b] ? fresh", "0 ? fresh"),
    }


@pytest.mark.parametrize("mutant", mutants())
def test_a_dropped_term_is_seen(mutant, monkeypatch):
    changed, original = set(), c_backend.compiled

    def mutated(source):
        start = source.find("void kernel(") if mutant == "kernel" else 0
        other = source[:start] + mutants()[mutant](source[start:]) if start >= 0 else source
        changed.add(other != source)
        return original(other)

    monkeypatch.setattr(c_backend, "compiled", mutated)
    for cached in (c_backend.loops, c_backend.with_python):
        cached.cache_clear()
    try:
        assert not off({"model": "lstm"}) < 1e-6 and True in changed
    finally:
        for cached in (c_backend.loops, c_backend.with_python):
            cached.cache_clear()


def test_the_backends_have_the_same_methods():
    """What circuits and rules may ask for: the signatures are compared where NumPy's and CuPy's are."""
    public = {name for name in dir(NumpyBackend) if not name.startswith("_")}
    assert public <= set(dir(CBackend)) and public <= {*dir(CupyBackend), "xp"}
