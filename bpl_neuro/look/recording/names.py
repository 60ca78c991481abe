"""What the arrays of a recording are called in words: the attribute ``long_name``, by which xarray labels axes."""

from __future__ import annotations

__all__ = ["GRADIENTS", "in_words"]

#: gradients of the loss by the state
GRADIENTS = ("c", "g", "delta", "credit", "learning_signal")

_NAMES = {
    "batch": "batches trained, this one included",
    "step": "step within the batch, from 1",
    "trial": "trial of the batch, from 0",
    "time": "time within the batch",
    "unit": "unit: index of the flat state",
    "unit_population": "population of the unit",
    "unit_neuron": "neuron of the unit, within its population",
    "unit_state": "state variable of the unit",
    "unit_units": "physical unit of the state",
    "neuron": "neuron: index of the rates",
    "neuron_population": "population of the neuron",
    "neuron_number": "neuron, within its population",
    "neuron_units": "physical unit of the rate",
    "current": "input current: port after port within a population",
    "current_population": "population of the neuron that receives it",
    "current_neuron": "that neuron, within its population",
    "current_input": "input variable of the neuron",
    "synapse_output": "output a of the synapse of the synthesiser",
    "synapse_input": "input j of the synapse of the synthesiser",
    "state": "state s_t",
    "rate": "rate r_t",
    "c": "immediate loss gradient ∂L_t/∂s_t",
    "g": "predicted gradient g_t of the later losses",
    "q": "predicted credit q̂_t of the input currents",
    "delta": "error δ_{t−1} of the prediction a step earlier",
    "credit": "credit of the state, as the rule gives it",
    "learning_signal": "learning signal, as the rule gives it",
    "trace_own": "trace of the own unit, e_t[a, a, j]",
    "trace_norm": "trace, norm over units ‖e_t[·, a, j]‖",
    "trace_product": "change of the synapse, Σᵢ δ_{t−1,i} e_{t−1}[i, a, j]",
    "loss": "loss of the batch, mean over trials",
    "psi": "weights Ψ of the circuit after the batch",
    "phi": "weights φ of the readout after the batch",
    "theta": "parameters θ of the rule after the batch",
}


def in_words(name: str) -> dict[str, str]:
    """The attribute ``long_name``; what a user's own rule reports has no other name than its own."""
    return {"long_name": _NAMES.get(name, f"{name}, as the rule reports it")}
