"""Synthesisers that predict within a subspace, and the reduced trace."""

import numpy as np
import pytest
from truth import case, error_of_online_learning, error_of_summed_updates, off

import bpl_neuro as bpl
from bpl_neuro import analysis, reference


@pytest.mark.parametrize("trace", ["full", "sweep"])
@pytest.mark.parametrize("keywords", [{"subspace": "random", "dimension": 2}, {"subspace": "learned", "dimension": 2}])
@pytest.mark.parametrize("model", ["adapting", "ei", "lstm"])
def test_the_forward_view_in_a_subspace(model, keywords, trace):
    circuit, readout, unit, data, theta = case(model, "gaps", **keywords)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, 0.9, 0.8) < 1e-10
    g = unit(np.random.default_rng(0).normal(size=(20, unit.k)), theta).g
    assert np.linalg.matrix_rank(g - g.mean(axis=0)) == 2


@pytest.mark.parametrize("keywords", [{"subspace": "random", "dimension": 3}, {"subspace": "learned", "dimension": 3}])
def test_its_gradient(keywords):
    circuit, _, unit, batch, theta = case("adapting", **keywords)
    z = unit.z(circuit.step(circuit.initial_state(3), batch.x[:, 0]))
    v = np.random.default_rng(0).normal(size=(3, unit.n))
    expected = reference.finite_difference(
        lambda flat: float((unit(z, flat.reshape(theta.shape)).g * v).sum()), theta.reshape(-1)
    ).reshape(theta.shape)
    e = np.zeros((3, unit.n, theta.size))
    unit.add_jacobian(e, unit(z, theta), 1.0)
    for found in (
        unit.gradient(v, unit(z, theta)), np.einsum("bi,bip->p", v, e).reshape(theta.shape),
        reference.synthesiser_gradient(unit, v, z, theta),
    ):  # fmt: skip
        assert off(found, expected) < 1e-7


def reduced(model, P, schedule_alpha=None, **keywords):
    circuit, readout, unit, data, theta = case(model, "gaps", subspace=P, **keywords)
    rules = [bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace) for trace in ("reduced", "full")]
    found, full = (bpl.batch_updates(circuit, readout, rule, data, theta).gradients["theta"] for rule in rules)
    return off(found, full)


@pytest.mark.parametrize("model", ["adapting", "lstm", "cerebellar"])
def test_the_reduced_trace_is_the_full_one_where_j_keeps_the_subspace(model):
    n = case(model)[0].n
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    assert reduced(model, Q) < 1e-10  # the whole space, turned
    assert reduced(model, Q[:, : n // 2]) > 1e-3


def test_it_is_exact_for_a_linear_circuit_in_a_left_invariant_subspace():
    circuit, readout, _, data, _ = case("linear", "gaps")
    W = circuit.weights["cortex->cortex"][0]
    symmetric = (W + W.T) / 2  # has real eigenvectors, and J with them
    circuit = circuit.with_weights("cortex->cortex", symmetric)
    unit = bpl.Synthesiser(circuit, subspace=np.linalg.eigh(symmetric)[1][:, :2])
    theta = np.random.default_rng(0).normal(size=2 * unit.m)
    found, full = (
        bpl.batch_updates(circuit, readout, bpl.BPLambda(unit, trace=trace), data, theta).gradients["theta"]
        for trace in ("reduced", "full")
    )
    assert off(found, full) < 1e-10


@pytest.mark.parametrize("trace", ["reduced", "leak", "full"])
def test_learning_online_at_lambda_zero_is_online_lambda_sg(trace):
    circuit, readout, unit, data, theta = case("adapting", subspace="random", dimension=3)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0, trace=trace)
    assert error_of_online_learning(rule, circuit, readout, unit, data, theta, 0.9, 0, 0.1) < 1e-12


def test_principal_components_hold_the_most():
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(50, 4, 6)) * np.array([5, 0.1, 3, 0.1, 0.1, 0.1])
    P = analysis.principal_subspace(errors, 2)
    assert np.allclose(P.T @ P, np.eye(2)) and abs(P[0, 0]) > 0.99 and abs(P[2, 1]) > 0.99
    circuit = bpl.Circuit("linear", 6, 2)
    unit = bpl.Synthesiser(circuit, subspace=P)
    assert unit.weights(unit.initial_theta()).shape == (2, 7)
    for wrong in ({"dimension": 7}, {"dimension": 0}, {"errors": np.full((2, 6), np.nan)}):
        with pytest.raises(bpl.ValidationError, match=next(iter(wrong))):
            analysis.principal_subspace(**({"errors": errors, "dimension": 2} | wrong))


def test_the_optimum_in_a_subspace_is_lower():
    circuit, readout, unit, data, theta = case("adapting", B=8)
    rule = bpl.BPLambda(unit, trace="sweep")
    G = np.stack(analysis.true_later_gradient(analysis.watched_steps(circuit, readout, rule, data, theta)[0]))
    found = {}
    for d in (1, 3, circuit.n):
        for kind in ("principal", "random"):
            P = analysis.principal_subspace(G, d) if kind == "principal" else None
            keywords = {"subspace": P} if P is not None else {"subspace": "random", "dimension": d}
            low = bpl.Synthesiser(circuit, **keywords)
            aligned = analysis.alignment(circuit, readout, bpl.BPLambda(low, trace="sweep"), data, low.initial_theta())
            found[d, kind] = float(aligned["optimum"].mean())
    assert found[1, "random"] < found[circuit.n, "random"] and found[1, "principal"] > found[1, "random"]
    assert found[circuit.n, "principal"] == pytest.approx(found[circuit.n, "random"])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"subspace": "some"}, "subspace"),
        ({"subspace": "random"}, "dimension"),
        ({"dimension": 3}, "dimension"),
        ({"subspace": "random", "dimension": 99}, "dimension"),
        ({"subspace": np.ones((8, 2))}, "orthonormal"),
        ({"subspace": np.eye(3)}, "shape"),
        ({"subspace": "learned", "dimension": 2, "expansion": 5}, "expansion"),
        ({"subspace": "random", "dimension": 2, "expansion": 5, "plastic_expansion": True}, "plastic"),
    ],
)
def test_wrong_subspaces(keywords, message):
    with pytest.raises(bpl.ValidationError, match=message):
        bpl.Synthesiser(bpl.Circuit("adapting", 4, 2), **keywords)


def test_traces_that_do_not_fit():
    circuit = bpl.Circuit("adapting", 4, 2)
    with pytest.raises(bpl.ValidationError, match="reduced"):
        bpl.BPLambda(bpl.Synthesiser(circuit, subspace="random", dimension=2), trace="local")
    with pytest.raises(bpl.ValidationError, match="subspace"):
        bpl.BPLambda(bpl.Synthesiser(circuit), trace="reduced")
