"""Models against Brian2 in more ways than `test_brian2`: summed variables, users' texts, delays; and against NumPy.

`test_brian2` sets u by hand at every step. Here Brian2 sums it itself, so that its schedule is compared too.
"""

import numpy as np
import pytest
from helpers import TEXTS
from scipy.integrate import solve_ivp

import bpl_neuro as bpl

STEPS = 1000
SUMMED = ("leaky_tanh", "threshold_linear", "adapting", "ei")
DIFFERENTIAL = {name: keywords for name, keywords in TEXTS.items() if "update" not in keywords}
EXACT = {name: keywords for name, keywords in TEXTS.items() if keywords.get("method") == "exact"}
#: where Brian2 has no number to compare with: its exponential Euler divides by a decay that may be 0, and its exact
#: integration refuses eigenvalues that are complex and divides by those that are 0
WITHOUT_BRIAN2 = ("a decay that passes 0", "exact, rotating", "exact, a matrix without an inverse")
#: time constants far enough apart for the eigenvalues to be real
APART = {"exact, coupled": {"tau": "5*ms", "tau_w": "50*ms"}}


@pytest.fixture
def b2():
    import brian2

    brian2.prefs.codegen.target = "numpy"
    brian2.start_scope()
    yield brian2
    brian2.start_scope()


def group_of(b2, circuit, pop, clock, text, **namespace):
    """A population as a NeuronGroup with the circuit's parameters and initial state."""
    spec, population = circuit.model.spec.populations[pop.name], circuit.model.populations[pop.name]
    names = {**namespace, "method": spec.method or "euler", "clock": clock, "name": f"group_{pop.name}"}
    group = b2.NeuronGroup(pop.N, text, **names)
    for name, value in {**population.parameters, **population.initial}.items():
        setattr(group, name, b2.Quantity(value, dim=population.neuron.dimensions[name]))
    return group


def with_drive(text, inputs, count):
    """The equations with each input as a sum of `count` synaptic sums and of an external drive that is a TimedArray."""
    lines = []
    for line in text.splitlines():
        name = line.split(":")[0].strip()
        if name in inputs:
            sums = [f"{name}_{k}" for k in range(count)]
            lines.append(f"{name} = {' + '.join([*sums, f'drive_{name}(t, i)'])} : 1")
            lines += [f"{part} : 1" for part in sums]
        else:
            lines.append(line)
    return "\n".join(lines)


def states_of(monitors, circuit):
    parts = []
    for pop, monitor in monitors:
        names = circuit.model.populations[pop.name].neuron.states[: pop.S]
        parts.append(np.stack([np.asarray(getattr(monitor, name)).T for name in names], axis=-1).reshape(STEPS, -1))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("model", SUMMED)
def test_a_thousand_steps_with_summed_variables(model, b2):
    """One Synapses object per projection, `u_post = w * r_pre : 1 (summed)`; inputs and biases as a TimedArray."""
    circuit = bpl.Circuit(model, dict.fromkeys(bpl.Model.load(model).populations, 4), 2, radius=0.6, seed=3)
    x = np.random.default_rng(1).normal(size=(STEPS, 2))
    dt = circuit.model.dt * b2.second
    clock, groups, synapses = b2.Clock(dt), {}, []
    sources = list(circuit.sizes)
    for pop in circuit.populations:
        spec = circuit.model.spec.populations[pop.name]
        drive = circuit.weights[f"bias->{pop.name}"][0] + x @ circuit.weights[f"input->{pop.name}"][0].T
        text = with_drive(spec.equations, spec.inputs, len(sources))
        namespace = {f"drive_{spec.inputs[0]}": b2.TimedArray(drive, dt=dt)}
        groups[pop.name] = group_of(b2, circuit, pop, clock, text, namespace=namespace)
    for post in circuit.sizes:
        for k, pre in enumerate(sources):
            port, rate = circuit.model.spec.populations[post].inputs[0], circuit.model.spec.populations[pre].rate
            text = f"w : 1\n{port}_{k}_post = w * {rate}_pre : 1 (summed)"
            s = b2.Synapses(groups[pre], groups[post], text, clock=clock, name=f"synapses_{pre}_{post}")
            s.connect()
            s.w[:] = circuit.weights[f"{pre}->{post}"][0][s.j, s.i]
            s.summed_updaters[f"{port}_{k}_post"].order = -1  # sums first, then the step: u_t holds r_{t−1}
            synapses.append(s)
    monitors = [
        (pop, b2.StateMonitor(groups[pop.name], circuit.model.populations[pop.name].neuron.states, True, clock=clock,
                              when="end", name=f"monitor_{pop.name}"))
        for pop in circuit.populations
    ]  # fmt: skip
    b2.Network(*groups.values(), *synapses, *(m for _, m in monitors)).run(STEPS * dt)
    ours, theirs = circuit.run(x[None])[0][0], states_of(monitors, circuit)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    assert np.abs(ours[-1]).max() > 1e-3


def driven_by_hand(b2, circuit, x, texts):
    """The circuit in Brian2, u set before every step from the same weights and from rates kept for the delays."""
    clock = b2.Clock(circuit.model.dt * b2.second)
    specs = circuit.model.spec.populations
    groups = {pop.name: group_of(b2, circuit, pop, clock, texts[pop.name]) for pop in circuit.populations}
    # a monitor of the rates, compiled once: reading a subexpression from a group compiles it anew at every step
    watched = {
        name: b2.StateMonitor(group, specs[name].rate, True, clock=clock, when="start", order=-1)
        for name, group in groups.items()
    }
    history, k = [], iter(range(STEPS))

    @b2.network_operation(clock=clock, when="start")
    def drive():
        step = next(k)
        sent = {name: m.variables[specs[name].rate].get_value()[step] for name, m in watched.items()}
        history.append({name: np.array(rate) for name, rate in sent.items()})
        for pop in circuit.populations:
            inputs = specs[pop.name].inputs
            u = dict(zip(inputs, circuit.weights[f"bias->{pop.name}"].copy(), strict=True))
            for synapses, projection in zip(circuit.synapses, circuit.model.projections, strict=True):
                if projection.post != pop.name:
                    continue
                late = history[max(step - projection.delay, 0)]
                sent = x[step] if projection.pre == "input" else late[projection.pre]
                for port, W in zip(projection.inputs, circuit.weights[synapses.key], strict=True):
                    u[port] = u[port] + W @ sent
            for port, value in u.items():
                setattr(groups[pop.name], port, value)

    monitors = []
    for pop in circuit.populations:
        states = [s for s in circuit.model.populations[pop.name].neuron.states if not s.startswith("delay_")]
        monitors.append(b2.StateMonitor(groups[pop.name], states, True, clock=clock, when="end"))
    b2.Network(*groups.values(), *watched.values(), drive, *monitors).run(STEPS * circuit.model.dt * b2.second)
    return {
        pop.name: np.stack([np.asarray(getattr(monitor, s)).T for s in monitor.record_variables], axis=-1)
        for pop, monitor in zip(circuit.populations, monitors, strict=True)
    }


@pytest.mark.parametrize("name", [name for name in DIFFERENTIAL if name not in WITHOUT_BRIAN2])
def test_a_thousand_steps_of_a_users_text(name, b2):
    """Exact integration, frozen nonlinearities, units, subexpressions in a chain, several inputs."""
    keywords = {**DIFFERENTIAL[name], "parameters": APART.get(name, DIFFERENTIAL[name]["parameters"])}
    model = bpl.Model.from_equations(rate="r", dt="1*ms", **keywords)
    circuit = bpl.Circuit(model, 4, 2, seed=3)
    # Rates in Hz are tens, powers of u grow: small weights keep the circuit away from chaos.
    circuit = circuit.with_psi(circuit.psi * (0.01 if "Hz" in name else 0.3))
    x = np.random.default_rng(1).normal(size=(STEPS, 2))
    theirs = driven_by_hand(b2, circuit, x, {"cortex": DIFFERENTIAL[name]["equations"]})["cortex"]
    ours = circuit.population_states(circuit.run(x[None])[0][0])["cortex"]
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12, atol=1e-14 * scale)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12 * scale)
    assert np.ptp(theirs[-100:], axis=0).max() > 1e-6 * scale  # still moving at the end


@pytest.mark.parametrize("model", ["association", "cerebellar"])
def test_delays_and_signs_of_a_model_with_noise(b2, model):
    """With its noise at 0: Brian2 then integrates the same stochastic equation without drawing anything that counts."""
    sizes = dict(zip(bpl.Model.load(model).populations, (6, 4, 3), strict=False))
    circuit = bpl.Circuit(model, sizes, 2, parameters={"sigma": 0}, radius=0.6, seed=3)
    x = np.random.default_rng(1).normal(size=(STEPS, 2))
    specs = circuit.model.spec.populations
    texts = {name: spec.equations.replace("sigma * xi", "0 * sigma * xi") for name, spec in specs.items()}
    theirs = driven_by_hand(b2, circuit, x, texts)
    ours = circuit.population_states(circuit.run(x[None])[0][0])
    for name in specs:
        S = theirs[name].shape[-1]
        np.testing.assert_allclose(ours[name][..., :S], theirs[name], rtol=1e-9, atol=1e-12)
    assert ours["exc"].shape[-1] > theirs["exc"].shape[-1]  # the delay line


@pytest.mark.parametrize("name", EXACT)
def test_exact_integration_against_a_solver_of_differential_equations(name):
    """Also with eigenvalues that are complex, or 0: a step of dt is what a solver finds with u held."""
    model = bpl.Model.from_equations(rate="r", dt="1*ms", **EXACT[name])
    circuit = bpl.Circuit(model, 1, 1, seed=1)
    neuron = model.populations["cortex"].neuron
    rng = np.random.default_rng(0)
    for _ in range(3):
        s, x = rng.normal(size=(1, circuit.n)), rng.normal(size=(1, 1))
        step = circuit.step(circuit.state(s), x)
        names = {**model.populations["cortex"].parameters, "u": float(step.u[0][0, 0, 0]), "tanh": np.tanh}
        lines = [line.split("=", 1) for line in EXACT[name]["equations"].splitlines() if "/dt" in line]
        slopes = [compile(right.rsplit(":", 1)[0].strip(), "slope", "eval") for _, right in lines]

        def f(_, y, slopes=slopes, names=names):
            return [eval(code, dict(names, **dict(zip(neuron.states, y, strict=True)))) for code in slopes]

        solution = solve_ivp(f, (0, model.dt), s[0], method="DOP853", rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(step.new.s[0], solution.y[:, -1], rtol=1e-11, atol=1e-13)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(h, c, gate_in, gate_forget, cell, gate_out):
    c = sigmoid(gate_forget) * c + sigmoid(gate_in) * np.tanh(cell)
    return sigmoid(gate_out) * np.tanh(c), c


def sublstm(h, c, gate_in, gate_forget, cell, gate_out):
    c = sigmoid(gate_forget) * c + sigmoid(cell) - sigmoid(gate_in)
    return sigmoid(c) - sigmoid(gate_out), c


@pytest.mark.parametrize("formula", [lstm, sublstm], ids=["lstm", "sublstm"])
def test_a_thousand_steps_of_the_gated_models_against_numpy(formula):
    circuit = bpl.Circuit(formula.__name__, 5, 3, seed=2)
    x = np.random.default_rng(1).normal(size=(STEPS, 2, 3))
    w = circuit.weights
    h, c = np.zeros((2, 2, 5))
    for x_t, s in zip(x, circuit.run(x.swapaxes(0, 1))[0].swapaxes(0, 1), strict=True):
        u = [h @ w["cell->cell"][p].T + x_t @ w["input->cell"][p].T + w["bias->cell"][p] for p in range(4)]
        h, c = formula(h, c, *u)
        np.testing.assert_allclose(s.reshape(2, 5, 2), np.stack([h, c], axis=-1), rtol=1e-10, atol=1e-12)


def test_a_thousand_steps_of_the_linear_model_against_numpy():
    circuit = bpl.Circuit("linear", 5, 3, radius=0.9, seed=2)
    x = np.random.default_rng(1).normal(size=(STEPS, 3))
    w, h = {key: view[0] for key, view in circuit.weights.items()}, np.zeros(5)
    for x_t, s in zip(x, circuit.run(x[None])[0][0], strict=True):
        h = w["cortex->cortex"] @ h + w["input->cortex"] @ x_t + w["bias->cortex"]
        np.testing.assert_allclose(s, h, rtol=1e-10, atol=1e-12)


def test_a_decay_of_zero_where_brian2_has_no_number():
    """dr/dt = −a u r / τ + b/τ in closed form: r e^{−p} + b dt/τ · (1 − e^{−p})/p, with p = a u dt/τ around 0."""
    model = bpl.Model.from_equations(rate="r", dt="1*ms", **TEXTS["a decay that passes 0"])
    weights = {"cortex->cortex": [[0.0]], "input->cortex": [[1.0]], "bias->cortex": [[0.0]]}
    circuit = bpl.Circuit(model, 1, 1, weights=weights)
    for u in (0.0, 1e-12, -1e-9, 1e-6, -1e-3, 0.5, -2.0, 30.0):
        p, b = u / 5, np.tanh(u) / 5
        expected = 0.7 * np.exp(-p) + b * (-np.expm1(-p) / p if p else 1.0)
        found = circuit.step(circuit.state(np.full((1, 1), 0.7)), np.full((1, 1), u)).new.s
        assert found[0, 0] == pytest.approx(expected, rel=1e-13)
