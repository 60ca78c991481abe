"""What is built of a model: noise of several sources in several states, and whose parameter a value is."""

import numpy as np
import pytest

import bpl_neuro as bpl

SOURCES = """
dx/dt = -x/tau + (a*xi_p + b*xi_q)*tau**-0.5 : 1
dy/dt = (x - y + u)/tau + (c*xi_p + d*xi_q)*tau**-0.5 : 1
r = x + y : 1
u : 1
a : 1
b : 1
c : 1
d : 1
tau : second
"""


def test_two_sources_of_noise_in_two_states():
    """√(dt/τ) times [[a, b], [c, d]]: rows are states, columns sources; the covariance is that times its transpose."""
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 5.0, "tau": "4*ms"}
    model = bpl.Model.from_equations(SOURCES, rate="r", dt="1*ms", parameters=values)
    circuit = bpl.Circuit(model, 2, 1, parameters={"b": np.array([2.0, 7.0])})
    by_hand = [0.5 * np.array([[1, 2], [3, 5]]), 0.5 * np.array([[1, 7], [3, 5]])]
    np.testing.assert_allclose(circuit.populations[0].noise_scale, by_hand, rtol=1e-14)
    drawn = np.asarray(circuit.draw_noise(np.random.default_rng(0), 200_000)).reshape(-1, 2, 2)
    for i, M in enumerate(by_hand):
        np.testing.assert_allclose(np.cov(drawn[:, i].T), M @ M.T, rtol=0.02)
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]) < 0.01


@pytest.mark.parametrize("order", [1, -1])
def test_a_populations_own_value_wins_over_the_general_one(order):
    given = dict([("tau", "7*ms"), ("exc.tau", "3*ms")][::order])
    circuit = bpl.Circuit("ei", {"exc": 2, "inh": 2}, 1, parameters=given)
    for pop, tau in zip(circuit.populations, (3e-3, 7e-3), strict=True):
        names = circuit.model.populations[pop.name].neuron.parameters
        assert pop.parameters[names.index("tau")] == pytest.approx(tau)
