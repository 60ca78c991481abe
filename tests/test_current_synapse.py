"""One synapse of the compatible class: its trace, held to dense matrices, and what it adds up to."""

import numpy as np
import pytest
from compatible import make, setting
from dense import run_densely
from truth import off

import bpl_neuro as bpl
from bpl_neuro import analysis, plotting

PLACES = {"lstm": ("cell->cell", 2, 1, 0), "leaky_tanh": ("input->cortex", 0, 2, 1), "ei": ("exc->inh", 0, 1, 2)}


@pytest.mark.parametrize("kind", ["alone", "late", "residual"])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("model", PLACES)
def test_what_a_synapse_learns_ends_on_the_forward_view(model, lam, kind):
    circuit, readout, unit, data, theta = setting(model)
    rule, bias = make(unit, kind, lam=lam, gamma=0.9, trace="full"), ("bias->" + circuit.populations[0].name, 0, 1)
    for trial, synapse in enumerate((PLACES[model], bias)):
        place = circuit.layout.view(np.arange(circuit.layout.size), synapse[0])[synapse[1:]]
        found = analysis.current_synapse_trace(circuit, readout, rule, data, theta, synapse, trial)
        swept = make(unit, kind, lam=lam, gamma=0.9, trace="sweep")
        single = data[trial : trial + 1]
        expected = -bpl.batch_updates(circuit, readout, swept, single, theta).gradients["theta"][place]
        assert abs(expected) > 1e-8
        assert found.attrs["forward_view"] == pytest.approx(expected, rel=1e-10)
        assert found["cumulative"].values[-1] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("model", PLACES)
def test_its_trace_is_that_of_dense_matrices(model):
    circuit, readout, unit, data, theta = setting(model)
    rule, synapse, lam, gamma = make(unit, lam=0.6, gamma=0.9, trace="full"), PLACES[model], 0.6, 0.9
    place = circuit.layout.view(np.arange(circuit.layout.size), synapse[0])[synapse[1:]]
    population = next(pop for pop in circuit.populations if pop.name == synapse[0].rpartition("->")[2])
    found = [
        analysis.current_synapse_trace(circuit, readout, rule, data, theta, synapse, 1, state)
        for state in range(population.S)
    ]
    steps, _ = run_densely(circuit, readout, data)
    e, rows = np.zeros((data.size, circuit.n, circuit.layout.size)), []
    for t, s in enumerate(steps):
        e = gamma * (s.A + lam * s.O) @ e + s.C @ s.Y
        e[data.end[:, t]] = 0
        rows.append(e[1, :, place])
    expected, first = np.array(rows), population.state_slice.start + synapse[2] * population.S
    for state, trace in enumerate(found):
        assert off(trace["own"].values, expected[:, first + state]) < 1e-12
    assert off(found[0]["norm"].values, np.linalg.norm(expected, axis=1)) < 1e-12


def test_at_lam_zero_the_local_trace_is_the_whole():
    circuit, readout, unit, data, theta = setting("leaky_tanh")
    rule = make(unit, lam=0.0, trace="full")
    found = analysis.current_synapse_trace(circuit, readout, rule, data, theta, PLACES["leaky_tanh"])
    np.testing.assert_allclose(found["local"], found["own"], atol=1e-15)
    np.testing.assert_allclose(abs(found["own"]), found["norm"], atol=1e-15)


def test_it_is_drawn():
    circuit, readout, unit, data, theta = setting("lstm")
    rule = make(unit, trace="full")
    fig = plotting.plot_trace(circuit, readout, rule, data, theta, PLACES["lstm"])
    titles = [ax.get_ylabel() for ax in fig.axes]
    assert titles == ["$y$", "trace", r"$\hat q$", r"$\sum_i a_i e_i$", r"$\Delta\theta/\alpha$"]
    assert fig.axes[0].get_title(loc="left").startswith("synapse cell->cell[2, 1, 0]")


def test_wrong_synapses_are_named():
    circuit, readout, unit, data, theta = setting("lstm")
    rule = make(unit, trace="full")
    for wrong, message in {
        ("cell->sell", 0, 0, 0): "with a projection of cell->cell",
        ("cell->cell", 0, 0): r"must lie in 0 … 3, 0 …",
        ("cell->cell", 4, 0, 0): r"must lie in 0 … 3, 0 …",
        "cell->cell": "must be",
        (): "must be",
    }.items():
        with pytest.raises(bpl.ValidationError, match=f"`synapse`.*{message}"):
            analysis.current_synapse_trace(circuit, readout, rule, data, theta, wrong)
    with pytest.raises(bpl.ValidationError, match="`state` must lie in 0 … 1"):
        analysis.current_synapse_trace(circuit, readout, rule, data, theta, PLACES["lstm"], state=2)
    with pytest.raises(bpl.ValidationError, match="`rule` must hold the full trace"):
        analysis.current_synapse_trace(circuit, readout, make(unit, trace="lazy"), data, theta, PLACES["lstm"])
