"""Brian2's TimedArray as input: what Brian2 itself would have seen."""

import numpy as np
import pytest

import bpl_neuro as bpl

brian2 = pytest.importorskip("brian2")


@pytest.mark.parametrize("own_dt", [1, 2, 2.5, 0.7])
def test_a_circuit_sees_what_brian2_sees(own_dt):
    values = np.random.default_rng(0).normal(size=(12, 3))
    stimulus = brian2.TimedArray(values, dt=own_dt * brian2.ms)
    brian2.start_scope()
    brian2.prefs.codegen.target = "numpy"
    group = brian2.NeuronGroup(
        3,
        "dv/dt = (-v + tanh(stim(t, i))) / (10*ms) : 1",
        method="euler",
        dt=1 * brian2.ms,
        namespace={"stim": stimulus},
    )
    monitor = brian2.StateMonitor(group, "v", record=True, dt=1 * brian2.ms, when="end")
    network = brian2.Network(group, monitor)
    network.run(40 * brian2.ms)
    circuit = bpl.Circuit("leaky_tanh", 3, 3, seed=0)
    circuit = circuit.with_psi(0 * circuit.psi).with_weights("input->cortex", np.eye(3))
    x = bpl.brian.from_timed_array(stimulus, dt="1*ms", duration="40*ms", trials=2)
    states, _ = circuit.run(x)
    assert float(circuit.model.dt) == 1e-3 and x.shape == (2, 40, 3)
    np.testing.assert_allclose(states[0], np.asarray(monitor.v).T, atol=1e-12)
    assert (states[0] == states[1]).all()


def test_one_input_with_a_unit():
    stimulus = brian2.TimedArray([1, 2] * brian2.mV, dt=10 * brian2.ms)
    x = bpl.brian.from_timed_array(stimulus, dt="5*ms", duration="30*ms")
    np.testing.assert_allclose(x[0, :, 0], [1e-3, 1e-3, 2e-3, 2e-3, 2e-3, 2e-3])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stimulus": np.ones(3)}, "TimedArray"),
        ({"dt": "1*mV"}, "dt"),
        ({"dt": "0*ms"}, "dt"),
        ({"duration": "2.5*ms"}, "whole number"),
        ({"trials": 0}, "trials"),
    ],
)
def test_wrong_arguments(changed, message):
    arguments = {
        "stimulus": brian2.TimedArray([1.0, 2.0], dt=1 * brian2.ms),
        "dt": "1*ms",
        "duration": "5*ms",
    } | changed
    with pytest.raises(bpl.ValidationError, match=message):
        bpl.brian.from_timed_array(arguments.pop("stimulus"), **arguments)
