"""One step and a thousand steps of every shipped model with differential equations against Brian2 itself."""

import numpy as np
import pytest

import bpl_neuro as bpl

#: models with differential equations; two have delays and noise, which this simple Brian2 network has not
DELAYED = {"association", "cerebellar"}
MODELS = [name for name in bpl.available_models() if bpl.Model.load(name).spec.time and name not in DELAYED]


def brian2_states(circuit, x):
    """The same circuit in Brian2: each step sets u from the same weights, then Brian2's integrator moves the states."""
    import brian2 as b2

    b2.prefs.codegen.target = "numpy"
    b2.start_scope()
    clock = b2.Clock(circuit.model.dt * b2.second)
    groups = []
    for pop in circuit.populations:
        spec, population = circuit.model.spec.populations[pop.name], circuit.model.populations[pop.name]
        group = b2.NeuronGroup(pop.N, spec.equations, method=spec.method, clock=clock, name=f"group_{pop.name}")
        for name, value in population.parameters.items():
            setattr(group, name, value * b2.second if name.startswith("tau") else value)
        groups.append((pop, population, group))
    steps, states, specs = x.shape[0], [], circuit.model.spec.populations
    # a monitor of the rates, compiled once: reading a subexpression from a group compiles it anew at every step
    watched = {
        pop.name: b2.StateMonitor(group, specs[pop.name].rate, True, clock=clock, when="start", order=-1)
        for pop, _, group in groups
    }

    @b2.network_operation(clock=clock, when="start")
    def drive():
        k = len(states)
        rates = {name: np.array(m.variables[specs[name].rate].get_value()[k]) for name, m in watched.items()}
        for pop, _, group in groups:
            u = circuit.weights[f"bias->{pop.name}"][0] + circuit.weights[f"input->{pop.name}"][0] @ x[k]
            for name, rate in rates.items():
                if f"{name}->{pop.name}" in circuit.weights:
                    u = u + circuit.weights[f"{name}->{pop.name}"][0] @ rate
            group.u = u

    @b2.network_operation(clock=clock, when="end")
    def record():
        parts = [
            np.stack([np.array(getattr(group, s)[:]) for s in population.neuron.states], axis=-1).reshape(-1)
            for _, population, group in groups
        ]
        states.append(np.concatenate(parts))

    network = b2.Network(*(group for *_, group in groups), *watched.values(), drive, record)
    network.run(steps * circuit.model.dt * b2.second)
    return np.array(states)


@pytest.mark.parametrize("model", MODELS)
def test_a_thousand_steps_against_brian2(model):
    populations = bpl.Model.load(model).populations
    circuit = bpl.Circuit(model, dict.fromkeys(populations, 4), 2, radius=0.6, seed=2)
    x = np.random.default_rng(0).normal(size=(1000, 2))
    ours = circuit.run(x[None])[0][0]
    theirs = brian2_states(circuit, x)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert np.abs(ours[-1]).max() > 1e-3
