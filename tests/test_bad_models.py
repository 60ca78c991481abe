"""More wrong model texts and arguments than `test_bad_input` has: expressions, values, files; nothing hangs or runs."""

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from wrong_inputs import BASE, CANARY, TAU, batch, changed, circuit, equations, guarded, parts, toml, updates

import bpl_neuro as bpl
from bpl_neuro.circuit.layout import Layout

__all__ = ["guarded"]  # ten seconds, no canary, sys.excepthook as it was: around every test here too


def slope(expression, **keywords):
    return equations(f"dr/dt = (-r + {expression})/tau : 1\nu : 1\n{TAU}", **keywords)


def discrete(update, text="h : 1\nu : 1"):
    return equations(text, rate="h", update=update, parameters={})


def chain(*lines, n, last, first="a0"):
    """Subexpressions a0 … an, each written with the next one, k + 1."""
    body = "\n".join(line.format(k=k, next=k + 1) for k in range(n) for line in lines)
    return equations(f"dr/dt = (-r + {first})/tau : 1\n{body}\na{n} = {last} : 1\nu : 1\n{TAU}")


BAD_EXPRESSIONS = {
    "attribute": ("u.__class__", "no attributes"),
    "subscript": ("u[0]", "no subscripts"),
    "lambda": ("(lambda: u)()", "read|Lambda"),
    "text": ("'u'", "not a number"),
    "formatted text": ("f'{u}'", "JoinedStr"),
    "comprehension": ("sum(q for q in u)", "GeneratorExp"),
    "list": ("[u]", "List"),
    "unpacking": ("tanh(*u)", "Starred"),
    "keyword": ("tanh(x=u)", "plain function"),
    "assignment": ("(q := u)", "read"),
    "await": ("await u", "read|Await"),
    "conditional": ("(u if u else r)", "conditional has no derivative"),
    "a comparison": ("(u > 0)*u", "comparison has no derivative; write a threshold"),
    "a comparison in a branch": ("where(u > 0, u > 1, 0)", "comparison has no derivative"),
    "a comparison in a condition": ("where((u > 0) < 1, u, 0)", "comparison has no derivative"),
    "a comparison in another function": ("maximum(u > 0, r)", "comparison has no derivative"),
    "where without a comparison": ("where(u, u, 0)", r"needs one comparison first, like where\(x > 0"),
    "where with two": ("where(0 < u < 1, u, 0)", "needs one comparison"),
    "where with a logical condition": ("where(u > 0 and r > 0, u, 0)", "needs one comparison"),
    "where without arguments": ("where()", r"takes 3 argument"),
    "where with one branch": ("where(u > 0, u)", r"takes 3 argument"),
    "where by equality": ("where(u == 0, u, 0)", "by <, <=, > or >= only"),
    "where by inequality": ("where(u != 0, u, 0)", "by <, <=, > or >= only"),
    "noise in a comparison": ("where(xi*second**0.5 > 0, u, 0)", "noise is inside sign"),
    "noise in a sign": ("sign(xi)", "noise is inside sign"),
    "noise in a branch": ("where(u > 0, xi*second**0.5, 0)", "noise is multiplied by 'u'"),
    "where of different units": ("where(u > 3*mV, u, 0)", "units do not fit"),
    "where with branches of different units": ("where(u > 0, u, 3*mV)", "units do not fit"),
    "sigmoid of a time": ("sigmoid(tau)", "units do not fit"),
    "erf of a time": ("erf(tau)", "units do not fit"),
    "maximum of different units": ("maximum(u, tau)", "units do not fit"),
    "relu of a time": ("relu(tau)", "units do not fit"),
    "logical": ("(u and r)", "logical operation has no derivative"),
    "remainder": ("u % 2", "jumps"),
    "whole division": ("u // 2", "derivative 0"),
    "bits": ("u | 1", "BinOp|BitOr|not allowed"),
    "complex number": ("1j*u", "not a number"),
    "truth": ("True*u", "not a number"),
    "ellipsis": ("...", "not a number"),
    "infinite number": ("1e999*u", "too large"),
    "number of 5000 digits": ("9" * 5000 + "*u", "read"),
    "nan": ("nan*u", "'nan' is not defined"),
    "infinity less infinity": ("inf*0", "divides by zero"),
    "logarithm of 0": ("log(0)", "divides by zero"),
    "0 to a negative power": ("0**-1", "cannot compute a power"),
    "root of a negative number": ("(-2)**0.5*u", "cannot compute a power"),
    "a number that overflows by powers": ("(((99**16)**16)**16)**16*u", "cannot compute a power"),
    "power of an expression": ("u**(1/3)", "one number or a parameter"),
    "power with a unit": ("u**tau", "units do not fit"),
    "sine of a time": ("sin(tau)", "units do not fit"),
    "volts and numbers": ("u + 3*mV", "units do not fit"),
    "ceil": ("ceil(u)", "'ceil' is not allowed.*0 everywhere"),
    "randn": ("randn()", "repeatability"),
    "eval": ("eval(u)", "'eval' is not allowed"),
    "open": (f"open({CANARY})", "call|not allowed"),
    "too few arguments": ("clip(u, 0)", r"takes (exactly )?3 argument"),
    "a deep call": ("tanh(" * 61 + "u" + ")" * 61, "nested 62 deep"),
    "a deep tree without parentheses": ("**".join(["u"] * 200), "power|too large"),
    "a long product": ("*".join(["u"] * 3000), "too large"),
}

BAD_MODELS = {
    "NUL": (slope("u\0"), "NUL"),
    "a unit of a unit": (equations(f"dr/dt = (-r + u)/tau : 1\nu : volt**second\n{TAU}"), "one digit"),
    "a power of a unit in parentheses": (equations("dr/dt = (-r + u)/tau : 1\nu : 1\ntau : second**(9**9)"), "digit"),
    "a long power of a unit": (equations("dr/dt = (-r + u)/tau : 1\nu : 1\ntau : second**99999999"), "one digit"),
    "a conditional unit": (
        equations("dr/dt = (-r + u)/tau : 1\nu : 1\ntau : second if 1 else 9**9**9"),
        "power of a power",
    ),
    "letters beyond ASCII": (equations("dr/dt = (-r + u)/τ : 1\nu : 1\nτ : second"), "cannot read"),
    "no unit": (equations(f"dr/dt = (-r + u)/tau\nu : 1\n{TAU}"), "read"),
    "defined twice": (equations(f"dr/dt = (-r + u)/tau : 1\ndr/dt = -r/tau : 1\nu : 1\n{TAU}"), "Duplicate"),
    "second order": (equations(f"d2r/dt2 = (-r + u)/tau : 1\nu : 1\n{TAU}"), "cannot read"),
    "integer": (equations(f"dr/dt = (-r + u)/tau : 1\nu : 1\nk : integer\n{TAU}"), "declared integer"),
    "linked": (equations(f"dr/dt = (-r + u)/tau : 1\nu : 1\nk : 1 (linked)\n{TAU}"), r"flag \(linked\)"),
    "event-driven": (equations(f"dr/dt = (-r + u)/tau : 1 (event-driven)\nu : 1\n{TAU}"), "event-driven"),
    "dt as a name": (equations(f"dr/dt = (-r + u)/tau : 1\nu : 1\ndt : second\n{TAU}"), "'dt'"),
    "xi as a name": (equations(f"dxi/dt = (-xi + u)/tau : 1\nu : 1\n{TAU}", rate="xi"), "'xi'"),
    "a function as a name": (equations(f"dtanh/dt = (-tanh + u)/tau : 1\nu : 1\n{TAU}", rate="tanh"), "'tanh'"),
    "a unit as a name": (equations(f"dms/dt = (-ms + u)/tau : 1\nu : 1\n{TAU}", rate="ms"), "'ms'"),
    "a subexpression of itself": (equations(f"dr/dt = a/tau : 1\na = a + u : 1\nu : 1\n{TAU}"), "cycle|circle"),
    "three in a circle": (
        equations(f"dr/dt = a/tau : 1\na = b : 1\nb = q : 1\nq = a : 1\nu : 1\n{TAU}"),
        "cycle|circle",
    ),
    "inputs empty": (changed(inputs=[]), "inputs"),
    "inputs of numbers": (changed(inputs=[1]), "`inputs`"),
    "the rate is the input": (changed(rate="u"), "must be a state"),
    "method of no name": (changed(method=3), "method"),
    "assignment to an input": (discrete("u = h"), "'u' is assigned"),
    "two statements": (discrete("h = u; import os"), "line 1 is not an assignment"),
    "augmented": (discrete("h += u"), "line 1 is not an assignment"),
    "annotated": (discrete("h: int = u"), "line 1 is not an assignment"),
    "chained": (discrete("h = q = u"), "line 1 is not an assignment"),
    "second line": (discrete("h = u\ndel h"), "line 2 is not an assignment"),
    "no assignment": (discrete("# nothing"), "no assignments"),
    "noise in an update": (discrete("h = u + xi*second**0.5"), "differential equations only"),
    "unit of an update": (discrete("h = u", "h : volt\nu : 1"), "units do not fit"),
    "signs in an update": (discrete("h = " + "-" * 9000 + "u"), "read"),
    "sums that double": (chain("a{k} = tanh(a{next}) + sin(a{next}) : 1", n=40, last="u + r"), "operations"),
    "initial value of nothing": (changed(initial={"q": 1}), "'q'"),
    "unit of an initial value": (changed(initial={"r": "1*mV"}), "r: must have the unit"),
    "initial value not finite": (changed(initial={"r": float("nan")}), "r: must be finite"),
    "initial value of an input": (changed(initial={"u": 1}), "'u'"),
    "name with a space": (changed(name="a b"), "identifier"),
    "name of the input": (changed(name="input"), "other than 'input'"),
    "title": (changed(title=3), "title"),
    "synthesiser with two inputs": (changed(synthesiser={"inputs": ["v", "w"]}), "synthesiser.inputs"),
    "synthesiser that sends its input": (changed(synthesiser={"rate": "v"}), "`rate` = 'v'"),
    "synthesiser with floor": (changed(synthesiser={"equations": "g = floor(v) : 1\nv : 1"}), r"synthesiser.*'floor'"),
    "synthesiser without a value": (changed(synthesiser={"equations": "g = a*v : 1\nv : 1\na : 1"}), "'a' has no"),
    "synthesiser with an update": (changed(synthesiser={"update": "g = v"}), "synthesiser.update: unknown key"),
    "trace with its weight": (
        changed(synthesiser={"synapses": {"equations": "dtrace/dt = (theta*r_pre - trace)/(9*ms) : 1"}}),
        "may not depend on the weight",
    ),
    "trace by another name": (
        changed(synthesiser={"synapses": {"equations": "dq/dt = (r_pre - q)/(9*ms) : 1"}}),
        "`rate` = 'trace'",
    ),
    "trace with powers": (
        changed(synthesiser={"synapses": {"equations": "dtrace/dt = -trace/(9*ms)**9**9**9 : 1"}}),
        "power",
    ),
    "expansion of nothing": (changed(synthesiser={"expansion": {"size": 0, "fan_in": 1}}), "expansion.size"),
    "expansion without fan_in": (changed(synthesiser={"expansion": {"size": 3}}), "fan_in"),
    "toml: a key twice": (toml("a = 1\na = 2"), "not valid TOML"),
    "toml: deep": (toml("a = " + "[" * 5000 + "]" * 5000), "not valid TOML"),
    "toml: a date": (toml(BASE.replace('"10*ms"', "2020-01-01")), "parameters.tau"),
    "toml: a rate of 3": (toml(BASE.replace('rate = "r"', "rate = 3")), "cortex.rate"),
    "toml: a list of populations": (toml("populations = [1]"), "populations"),
    "toml: time as a list": (toml(BASE.replace("[time]", "[[time]]")), "time"),
    "toml: nothing": (toml(""), "populations"),
    "no model of that path": (lambda: bpl.Model.load("../../etc/passwd"), "no model.*lstm"),
    "a folder": (lambda: bpl.Model.load("/"), "no model.*lstm"),
    "no model of no name": (lambda: bpl.Model.load(""), "no model"),
}  # fmt: skip

BAD_VALUES = {
    "10 ms": "invalid syntax",
    "": "read",
    "10*ms*": "read",
    "10*ms + 3*mV": "adds s and V",
    "abs(3)*ms": "without function calls",
    "1/0*ms": "division by zero",
    "(-1)**0.5*ms": "cannot compute",
    "10**ms": "unit",
    "(4*ms)**1.5": r"must have the unit s.*s\^1.5",
    "10*parsec": "'parsec'",
    "ten*ms": "'ten'",
    "1e400*ms": "too large",
    "1e300*1e300*ms": "must be finite",
    "9**9**9": "power",
    "ms.dim": "Attribute",
    "[10*ms]": "List",
    "lambda: ms": "Lambda",
    CANARY: "call",
    "+".join(["ms"] * 9000): "characters",
    "-" * 9000 + "ms": "too large",
    "(" * 5000 + "ms" + ")" * 5000: "nested 5000 deep",
    "1" * 19_000 + "*ms": "read|too large",
}


@pytest.mark.parametrize("name", BAD_EXPRESSIONS)
def test_wrong_expression(name):
    """It names the variable, and says what is wrong."""
    expression, message = BAD_EXPRESSIONS[name]
    with pytest.raises(bpl.ModelError, match=rf"(?s)\[populations.cortex\].*({message})") as caught:
        slope(expression)()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", BAD_MODELS)
def test_wrong_model(name):
    build, message = BAD_MODELS[name]
    with pytest.raises(bpl.ModelError, match=rf"(?s){message}") as caught:
        build()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", BAD_VALUES, ids=lambda value: value[:20])
def test_wrong_value(value):
    """The same text is refused as a parameter, as an initial value, as dt and as a circuit's own value."""
    message = BAD_VALUES[value]
    with pytest.raises(bpl.ModelError, match=rf"(?s)\[populations.cortex\]: tau.*({message})"):
        changed(parameters={"tau": value})()
    with pytest.raises(bpl.ModelError, match=r"\[time\] dt"):
        changed(dt=value)()
    with pytest.raises(bpl.ModelError, match=r"`parameters` tau"):
        circuit(parameters={"tau": value})
    with pytest.raises(bpl.BplError, match="`gamma`"):
        bpl.BPLambda(parts()[2], gamma=value)


def test_names_are_only_names():
    """What looks like code in a comment, a title or a long name is text."""
    model = changed(title=CANARY, equations=f"dr/dt = (-r + u)/tau : 1  # {CANARY} : 9**9**9\nu : 1\n{TAU}")()
    assert bpl.Model.from_toml(model.to_toml()).title == CANARY
    with pytest.raises(bpl.ModelError, match="not defined"):
        slope("q" * 5000)()


def test_a_wrong_file_on_disk_is_named(tmp_path):
    folder = Path(tmp_path / "folder.toml")
    folder.mkdir()
    with pytest.raises(bpl.ModelError, match=r"folder\.toml.*cannot read"):
        bpl.Model.load(folder)
    with pytest.raises(bpl.ModelError, match=r"gone\.toml.*cannot read"):
        bpl.Model.load(tmp_path / "gone.toml")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(BASE.replace("From equations", "Früh").encode("latin-1"))
    with pytest.raises(bpl.ModelError, match=r"latin\.toml.*UTF-8"):
        bpl.Model.load(latin)


def test_a_refusal_takes_little_memory():
    """A text of a few bytes must not grow into gigabytes before it is refused."""
    bpl.Model.load("linear")
    tracemalloc.start()
    try:
        for name in ("sums that double", "a long power of a unit"):
            with pytest.raises(bpl.ModelError):
                BAD_MODELS[name][0]()
        for name in ("a number that overflows by powers", "a long product"):
            with pytest.raises(bpl.ModelError):
                slope(BAD_EXPRESSIONS[name][0])()
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


X = np.zeros((2, 4, 2))
C = circuit()
BAD_ARGUMENTS = {
    "inputs a float": (lambda: circuit(input_size=2.0), "`input_size`"),
    "size true": (lambda: circuit(size=True), "size of cortex"),
    "size a text": (lambda: circuit(size="3"), "size of cortex"),
    "size infinite": (lambda: circuit(size=float("inf")), "size of cortex"),
    "radius infinite": (lambda: circuit(radius=float("inf")), "`radius`"),
    "input_scale nan": (lambda: circuit(input_scale=float("nan")), "`input_scale`"),
    "dtype half": (lambda: circuit(dtype="float16"), "`dtype`"),
    "dtype complex": (lambda: circuit(dtype=complex), "`dtype`"),
    "parameter of two axes": (lambda: circuit(parameters={"tau": np.ones((3, 1))}), "`parameters` tau"),
    "parameter of another population": (lambda: circuit(parameters={"exc.tau": "3*ms"}), "'exc.tau'"),
    "model of no kind": (lambda: circuit(model=None), "`model`"),
    "psi of two axes": (lambda: circuit().with_psi(np.zeros((3, 6))), "`psi`"),
    "run with two axes": (lambda: circuit().run(np.zeros((4, 2))), "`x` must be"),
    "clamp nothing": (lambda: circuit().clamped_at("exc", [0], 0.0), "`population`"),
    "clamp too far": (lambda: circuit().clamped_at("cortex", [3], 0.0), "`units`"),
    "clamp below": (lambda: circuit().clamped_at("cortex", [-1], 0.0), "`units`"),
    "clamp between": (lambda: circuit().clamped_at("cortex", [0.5], 0.0), "`units`"),
    "clamp at nan": (lambda: circuit().clamped_at("cortex", [0], float("nan")), "`value`"),
    "outputs true": (lambda: bpl.Readout(circuit(), True), "`output_size`"),
    "outputs a float": (lambda: bpl.Readout(circuit(), 2.0), "`output_size`"),
    "loss none": (lambda: bpl.Readout(circuit(), 2, None), "`loss`"),
    "reduction none": (lambda: bpl.Readout(circuit(), 2, reduction=None), "`reduction`"),
    "expansion true": (lambda: bpl.Synthesiser(circuit(), expansion=True), "`expansion`"),
    "expansion a float": (lambda: bpl.Synthesiser(circuit(), expansion=3.0), "`expansion`"),
    "fan_in too large": (lambda: bpl.Synthesiser(circuit(), expansion=3, fan_in=4), "`fan_in`"),
    "lam none": (lambda: bpl.BPLambda(parts()[2], lam=None), "`lam`"),
    "lam true": (lambda: bpl.BPLambda(parts()[2], lam=True), "`lam`"),
    "lam of the wrong unit": (lambda: bpl.BPLambda(parts()[2], lam="5*mV"), "`lam`"),
    "gamma zero seconds": (lambda: bpl.BPLambda(parts()[2], gamma="0*ms"), "`gamma`"),
    "sg_weight nan": (lambda: bpl.BPLambda(parts()[2], sg_weight=float("nan")), "`sg_weight`"),
    "sg_weight text": (lambda: bpl.BPLambda(parts()[2], sg_weight="1"), "`sg_weight`"),
    "no trace equation": (
        lambda: bpl.BPLambda(bpl.Synthesiser(circuit(model="linear")), trace="model"),
        "`trace`.*synapses",
    ),
    "eta infinite": (lambda: bpl.SGD(float("inf")), "`eta`"),
    "eta text": (lambda: bpl.Adam("fast"), "`eta`"),
    "beta2": (lambda: bpl.Adam(beta2=-0.1), "`beta2`"),
    "beta1 nan": (lambda: bpl.Adam(beta1=float("nan")), "`beta1`"),
    "epsilon": (lambda: bpl.Adam(epsilon=-1.0), "`epsilon`"),
    "norm": (lambda: bpl.Clip(bpl.SGD(1.0), 0.0), "`norm`"),
    "norm nan": (lambda: bpl.Clip(bpl.SGD(1.0), float("nan")), "`norm`"),
    "half_life": (lambda: bpl.ExponentialDecay(1.0, 0), "`half_life`"),
    "floor": (lambda: bpl.CosineDecay(1.0, 3, floor=-1.0), "`floor`"),
    "steps": (lambda: bpl.CosineDecay(1.0, 0), "`steps`"),
    "x none": (lambda: bpl.Batch(None, X), "`x` must be"),
    "y none": (lambda: bpl.Batch(X, None), "`y` must be"),
    "y of letters": (lambda: bpl.Batch(X, np.full((2, 4, 2), "a")), "`y` must be an array of real"),
    "y of another batch": (lambda: bpl.Batch(X, np.zeros((3, 4, 2))), "`y` must be"),
    "mask nan": (lambda: batch(mask=np.full((2, 4), np.nan)), "`mask` must be finite"),
    "end of halves": (lambda: batch(end=np.full((2, 4), 0.5)), "`end`"),
    "end of letters": (lambda: batch(end=np.full((2, 4), "a")), "`end`"),
    "theta a text": (lambda: updates(theta="none"), "`theta`"),
    "theta of two axes": (lambda: updates(theta=np.zeros((3, 4))), r"`theta` must have shape \(12,\)"),
    "theta complex": (lambda: updates(theta=np.zeros(12, complex)), "`theta` must be an array of real"),
    "labels too large": (
        lambda: bpl.batch_updates(
            C, bpl.Readout(C, 2, "cross_entropy"), bpl.BPLambda(bpl.Synthesiser(C)), bpl.Batch(X, np.full((2, 4), 2))
        ),
        "0 … 1",
    ),
    "targets beyond 1": (
        lambda: bpl.batch_updates(
            C, bpl.Readout(C, 2, "binary_cross_entropy"), bpl.BPLambda(bpl.Synthesiser(C)), bpl.Batch(X, X + 2)
        ),
        r"\[0, 1\]",
    ),
    "layout": (lambda: Layout({"weights": (2, 3), "bias": (2,)}).views(np.zeros(7)), "expected 8 values, got 7"),
    "validation negative": (lambda: bpl.ArrayTask(batch(), validation=-0.1), "`validation`"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_wrong_argument(name):
    call, message = BAD_ARGUMENTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a warning beside the error would be one message too many
        with pytest.raises((bpl.ValidationError, bpl.ModelError), match=rf"(?s){message}"):
            call()


@pytest.mark.parametrize(
    ("loc", "known"),
    [
        ("synthesiser.expansion", "size, fan_in, plastic"),
        ("synthesiser.synapses", "equations, method, parameters"),
        ("synthesiser", "equations, rate, inputs, parameters, sees"),
        ("populations.synapses", "equations, rate, inputs, method, update"),
        ("time", "dt"),
    ],
)
def test_an_unknown_key_is_told_the_known_ones(loc, known):
    text = f'[populations.cortex]\nequations = ""\nrate = "r"\ninputs = ["u"]\n[{loc}]\nsise = 3\n'
    with pytest.raises(bpl.ModelError, match=f"sise: unknown key .*; known: {known}"):
        bpl.Model.from_toml(text)


def test_a_power_of_a_negative_parameter_is_refused():
    """Of plain numbers Python makes a complex one."""
    text = f"dr/dt = (-r + (-k)**k*u)/tau : 1\nu : 1\nk : 1\n{TAU}"
    model = equations(text, parameters={"tau": "5*ms", "k": 1.3})
    with pytest.raises(bpl.ModelError, match="not a real number"):
        bpl.Circuit(model(), 2, 2)
