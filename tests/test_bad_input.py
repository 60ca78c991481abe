"""Wrong model texts and wrong arguments: each gives the error a person needs; none hangs, none runs code."""

import numpy as np
import pytest
from wrong_inputs import BASE, CANARY, TAU, batch, changed, circuit, equations, guarded, parts, toml, updates

import bpl_neuro as bpl

__all__ = ["guarded"]  # around every test

TWO = """
[populations.a]
equations = "h : 1\\nu : 1"
update = "h = u"
rate = "h"
inputs = ["u"]
[populations.b]
equations = "h : 1\\nu : 1"
update = "h = u"
rate = "h"
inputs = ["u"]
"""
BAD_MODELS = {
    "empty": (equations(" "), "empty"),
    "no text": (changed(equations=3), "equations"),
    "syntax": (equations(f"dr/dt = (-r + : 1\nu : 1\n{TAU}"), "read"),
    "undefined name": (equations(f"dr/dt = (-r + k*u)/tau : 1\nu : 1\n{TAU}"), "'k' is not defined"),
    "units": (equations(f"dr/dt = -r + tanh(u/tau) : 1\nu : 1\n{TAU}"), "units do not fit"),
    "unit of a subexpression": (equations(f"dr/dt = -r/tau : 1\nq = tau : 1\nu : 1\n{TAU}"), "'q': the units"),
    "unknown unit": (equations("dr/dt = (-r + u)/tau : 1\nu : parsec\ntau : second"), "parsec"),
    "nan parameter": (changed(parameters={"tau": float("nan")}), "tau: must be finite"),
    "inf parameter": (changed(parameters={"tau": "inf"}), "must be finite"),
    "unit of a parameter": (changed(parameters={"tau": "10*mV"}), "tau: must have the unit"),
    "missing parameter": (changed(parameters={}), "'tau' has no value"),
    "unknown parameter": (changed(parameters={"tau": "1*ms", "taux": 1}), "'taux' is not a parameter"),
    "missing dt": (changed(dt=None), "need a step"),
    "negative dt": (changed(dt="-1*ms"), "positive time"),
    "dt in volts": (changed(dt="1*mV"), "positive time"),
    "floor": (equations(f"dr/dt = (-r + floor(u))/tau : 1\nu : 1\n{TAU}"), "'floor' is not allowed.*0 everywhere"),
    "int": (equations(f"dr/dt = (-r + int(u))/tau : 1\nu : 1\n{TAU}"), "clip"),
    "rand": (equations(f"dr/dt = (-r + rand())/tau : 1\nu : 1\n{TAU}"), "repeatability"),
    "unknown function": (equations(f"dr/dt = (-r + gelu(u))/tau : 1\nu : 1\n{TAU}"), "'gelu' is not allowed.*tanh"),
    "arguments": (equations(f"dr/dt = (-r + tanh(u, u))/tau : 1\nu : 1\n{TAU}"), "takes (exactly )?1 argument"),
    "comparison": (equations(f"dr/dt = (-r + (u > 0))/tau : 1\nu : 1\n{TAU}"), "comparison has no derivative"),
    "spikes": (equations(f"dr/dt = (-r + u)/tau : 1 (unless refractory)\nu : 1\n{TAU}"), "refractor"),
    "multiplied noise": (equations(f"dr/dt = -r/tau + u*xi/tau**0.5 : 1\nu : 1\n{TAU}"), "only additive noise"),
    "noise in a subexpression": (
        equations(f"dr/dt = -r/tau + u/tau : 1\nq = xi*tau**0.5 : 1\nu : 1\n{TAU}"),
        "differential",
    ),
    "noise and a method": (
        changed(equations=f"dr/dt = -r/tau + u/tau + xi/tau**0.5 : 1\nu : 1\n{TAU}", method="exact"),
        "euler",
    ),
    "unit of the noise": (equations(f"dr/dt = -r/tau + u/tau + xi : 1\nu : 1\n{TAU}"), "units"),
    "time": (equations(f"dr/dt = (-r + u*sin(t/tau))/tau : 1\nu : 1\n{TAU}"), "'t' may not appear"),
    "boolean": (equations(f"dr/dt = (-r + u)/tau : 1\nu : 1\nb : boolean\n{TAU}"), "boolean"),
    "input not declared": (equations(f"dr/dt = -r/tau : 1\n{TAU}"), "'u' must be declared"),
    "input twice": (changed(inputs=["u", "u"]), "must differ"),
    "rate unknown": (changed(rate="x"), "'x' is not in the equations"),
    "rate is a parameter": (changed(rate="tau"), "must be a state"),
    "rate of the input": (equations(f"dx/dt = -x/tau : 1\nr = x + u : 1\nu : 1\n{TAU}"), "depends on the input 'u'"),
    "circle": (equations(f"dr/dt = (-r + a)/tau : 1\na = b : 1\nb = a + u : 1\nu : 1\n{TAU}"), "circle|cycle|cyclic"),
    "method": (changed(method="rk4"), "euler, exponential_euler, exact"),
    "exact": (changed(equations=f"dr/dt = (-r**2 + u)/tau : 1\nu : 1\n{TAU}", method="exact"), "linear in the states"),
    "conditionally linear": (
        changed(equations=f"dr/dt = (-r**2 + u)/tau : 1\nu : 1\n{TAU}", method="exponential_euler"),
        "linear in r",
    ),
    "update besides": (changed(update="r = u"), "not both"),
    "update of nothing": (equations("h : 1\nu : 1", rate="h", update="q = u", parameters={}), "'q' is assigned"),
    "update twice": (equations("h : 1\nu : 1", rate="h", update="h = u\nh = u", parameters={}), "assigned twice"),
    "update with a loop": (
        equations("h : 1\nu : 1", rate="h", update="for k in u: h = k", parameters={}),
        "not an assignment",
    ),
    "no state": (equations("q = u : 1\nu : 1", rate="q", parameters={}), "no state"),
    "power of a power": (equations(f"dr/dt = (-r + 9**9**9)/tau : 1\nu : 1\n{TAU}"), "power"),
    "large power": (equations(f"dr/dt = (-r + u**99)/tau : 1\nu : 1\n{TAU}"), "±16"),
    "power in a unit": (equations("dr/dt = (-r + u)/tau : 1\nu : volt**9**9**9\ntau : second"), "power"),
    "power in a parameter": (changed(parameters={"tau": "9**9**9*ms"}), "power"),
    "code in a parameter": (changed(parameters={"tau": CANARY}), "tau"),
    "code in an equation": (equations(f"dr/dt = (-r + {CANARY})/tau : 1\nu : 1\n{TAU}"), "read|call"),
    "code in a unit": (equations(f"dr/dt = (-r + u)/tau : {CANARY}\nu : 1\n{TAU}"), "read|unit"),
    "code in an update": (equations("h : 1\nu : 1", rate="h", update=f"h = {CANARY}", parameters={}), "call|number"),
    "a long text": (equations("#" * 10_000_000), "characters"),
    "deep parentheses": (equations("dr/dt = " + "(" * 5000 + "u" + ")" * 5000 + " : 1"), "nested"),
    "a long sum": (equations("dr/dt = (-r" + " + u" * 4000 + f")/tau : 1\nu : 1\n{TAU}"), "too large"),
    "many signs": (equations("dr/dt = " + "-" * 8000 + f"u/tau : 1\nu : 1\n{TAU}"), "too large|read"),
    "growth": (
        equations("dr/dt = (-r + a9)/tau : 1\na0 = u*r : 1\n" + "\n".join(
            f"a{k + 1} = tanh(a{k} + u)*a{k}*(a{k} + r) : 1" for k in range(9)) + f"\nu : 1\n{TAU}"),
        "operations",
    ),
    "divide by zero": (equations(f"dr/dt = (-r + u/0)/tau : 1\nu : 1\n{TAU}"), "divides by zero|divi"),
    "a reserved name": (equations(f"dr/dt = (-r + u)/tau : 1\nu : 1\nN : 1\n{TAU}", parameters={"tau": 1}), "N"),
    "not toml": (toml("[populations\n"), "not valid TOML"),
    "unknown key": (toml(BASE + "\n[plasticity]\nrule = 1\n"), "plasticity: unknown key.*populations"),
    "unknown key inside": (toml(BASE.replace("rate =", "raet ="), ), "raet|rate"),
    "no populations": (toml('title = "x"\n[populations]\n'), "populations"),
    "projection to nowhere": (toml(TWO + '[[projections]]\nfrom = "a"\nto = "c"\n'), "no population"),
    "projection from nowhere": (toml(TWO + '[[projections]]\nfrom = "c"\nto = "a"\n'), "not a population"),
    "projection to no input": (toml(TWO + '[[projections]]\nfrom = "a"\nto = "b.v"\n'), "has the inputs u"),
    "projection twice": (toml(TWO + '[[projections]]\nfrom = "a"\nto = "b"\n' * 2), "given twice"),
    "no projections": (toml(TWO), "say which"),
    "synthesiser with memory": (
        changed(synthesiser={"equations": "dg/dt = (v - g)/(5*ms) : 1\nv : 1"}),
        "no memory",
    ),
    "synthesiser sees": (changed(synthesiser={"sees": "everything"}), "`sees`"),
    "no such model": (lambda: bpl.Model.load("lsmt"), "lstm"),
    "no such file": (lambda: bpl.Model.load("nowhere.toml"), "cannot read"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MODELS)
def test_wrong_model(name):
    build, message = BAD_MODELS[name]
    with pytest.raises(bpl.ModelError, match=rf"(?s){message}"):
        build()


def test_a_model_file_that_is_not_text(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(bpl.ModelError, match=r"bad\.toml.*UTF-8"):
        bpl.Model.load(path)
    path.write_bytes(b"#" * 1_000_000)
    with pytest.raises(bpl.ModelError, match="bytes"):
        bpl.Model.load(path)


def test_errors_name_the_file_and_the_key(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(BASE.replace("10*ms", "10*mV"))
    with pytest.raises(bpl.ModelError, match=r"mine\.toml: \[populations\.cortex\]: tau: must have the unit s"):
        bpl.Model.load(path)


NAN = np.full((2, 4, 2), np.nan)
BAD_ARGUMENTS = {
    "model": (lambda: circuit(model=3), "`model`"),
    "size 0": (lambda: circuit(size=0), "size of cortex"),
    "size a float": (lambda: circuit(size=3.5), "size of cortex"),
    "size of another": (lambda: circuit(size={"exc": 3}), "populations cortex"),
    "one size for two": (lambda: circuit(model="ei"), "name each population"),
    "inputs": (lambda: circuit(input_size=-1), "`input_size`"),
    "input_size true": (lambda: circuit(input_size=True), "`input_size`"),
    "radius": (lambda: circuit(radius=-1), "`radius`"),
    "radius nan": (lambda: circuit(radius=float("nan")), "`radius`"),
    "input_scale": (lambda: circuit(input_scale=-1.0), "`input_scale`"),
    "dtype": (lambda: circuit(dtype="int32"), "float32 or float64"),
    "dtype nonsense": (lambda: circuit(dtype="double precision"), "float32 or float64"),
    "parameters of no names": (lambda: circuit(parameters=np.ones(3)), "`parameters` must be a mapping"),
    "weights of no names": (lambda: circuit(weights=np.ones(3)), "`weights` must be a mapping"),
    "connectivity of no names": (lambda: circuit(connectivity=np.ones(3)), "`connectivity` must be a mapping"),
    "parameter name": (lambda: circuit(parameters={"taux": 1}), "'taux'.*cortex.tau"),
    "parameter unit": (lambda: circuit(parameters={"tau": "3*mV"}), "tau: must have the unit"),
    "parameter length": (lambda: circuit(parameters={"tau": [0.1, 0.2]}), "3 finite values"),
    "parameter nan": (lambda: circuit(parameters={"tau": [0.1, 0.2, np.nan]}), "3 finite values"),
    "psi": (lambda: circuit().with_psi(np.zeros(3)), "`psi` must have shape"),
    "psi of a value": (lambda: setattr(circuit(), "psi", circuit().psi), "`psi` .*with_psi"),
    "run": (lambda: circuit().run(np.zeros((2, 5, 3))), "`x` must be"),
    "outputs": (lambda: bpl.Readout(circuit(), 0), "`output_size`"),
    "loss": (lambda: bpl.Readout(circuit(), 2, "mse"), "`loss`.*squared_error"),
    "reduction": (lambda: bpl.Readout(circuit(), 2, reduction="max"), "`reduction`"),
    "population": (lambda: bpl.Readout(circuit(), 2, population="exc"), "`population`.*cortex"),
    "phi": (lambda: parts()[1].with_phi(np.zeros(3)), "`phi` must have shape"),
    "phi nan": (lambda: parts()[1].with_phi(np.full(8, np.nan)), "`phi` must be finite"),
    "phi of a value": (lambda: setattr(parts()[1], "phi", parts()[1].phi), "`phi` .*with_phi"),
    "sees": (lambda: bpl.Synthesiser(circuit(), sees="all"), "`sees`"),
    "lam": (lambda: bpl.BPLambda(parts()[2], lam=1.3), r"`lam` must lie in \[0, 1\].*1.3"),
    "lam nan": (lambda: bpl.BPLambda(parts()[2], lam=float("nan")), "`lam`"),
    "gamma": (lambda: bpl.BPLambda(parts()[2], gamma=-0.1), "`gamma`"),
    "gamma in volts": (lambda: bpl.BPLambda(parts()[2], gamma="5*mV"), "`gamma`"),
    "gamma a negative time": (lambda: bpl.BPLambda(parts()[2], gamma="-5*ms"), "`gamma`"),
    "sg_weight": (lambda: bpl.BPLambda(parts()[2], sg_weight=-1), "`sg_weight`"),
    "trace": (lambda: bpl.BPLambda(parts()[2], trace="exact"), "`trace`.*full"),
    "eta": (lambda: bpl.SGD(-1), "`eta`"),
    "eta nan": (lambda: bpl.Adam(float("nan")), "`eta`"),
    "beta1": (lambda: bpl.Adam(beta1=1.0), "`beta1`"),
    "x of two axes": (lambda: batch(x=np.zeros((2, 4))), "`x` must be"),
    "x empty": (lambda: batch(x=np.zeros((0, 4, 2))), "`x` must be"),
    "x complex": (lambda: batch(x=np.zeros((2, 4, 2), complex)), "`x` must be an array of real"),
    "x nan": (lambda: batch(x=NAN), "`x` must be finite"),
    "y nan": (lambda: batch(y=NAN), "`y` must be finite"),
    "y length": (lambda: batch(y=np.zeros((2, 5, 2))), "`y` must be"),
    "y labels of floats": (lambda: batch(y=np.zeros((2, 4))), "integer class labels"),
    "mask shape": (lambda: batch(mask=np.ones(4)), "`mask`"),
    "mask negative": (lambda: batch(mask=-np.ones((2, 4))), "`mask`"),
    "end shape": (lambda: batch(end=np.ones(4, bool)), "`end`"),
    "end without an end": (lambda: batch(end=np.zeros((2, 4), bool)), "`end` has no True in row 0"),
    "end of numbers": (lambda: batch(end=np.full((2, 4), 2)), "`end` must hold booleans"),
    "batch inputs": (lambda: updates(x=np.zeros((2, 4, 3))), "3 inputs, the circuit 2"),
    "batch outputs": (lambda: updates(y=np.zeros((2, 4, 5))), "must have 2 outputs"),
    "labels for a regression": (lambda: updates(y=np.zeros((2, 4), int)), "class labels"),
    "theta shape": (lambda: updates(theta=np.zeros((2, 2))), "`theta` must have shape"),
    "theta nan": (lambda: updates(theta=np.full(12, np.nan)), "`theta` must be finite"),
    "split": (
        lambda: next(bpl.ArrayTask(batch(), validation=0, test=0).batches(np.random.default_rng(0), 1, "dev")),
        "`split`",
    ),
    "test": (lambda: bpl.ArrayTask(batch(), test=1.0), "`test`"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_wrong_argument(name):
    call, message = BAD_ARGUMENTS[name]
    with pytest.raises((bpl.ValidationError, bpl.ModelError), match=rf"(?s){message}"):
        call()
