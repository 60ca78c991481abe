"""A grammar of model texts, for Hypothesis: right ones, nearly right ones, and some that are neither."""

from hypothesis import strategies as st

from bpl_neuro.model.functions import FUNCTIONS, written_functions

CALLS = [name for name in written_functions() if name not in ("where", "clip", "maximum", "minimum")]
NUMBERS = ["0", "1", "2", "0.5", "3.7", "1e-3", "999983", "1e9", "1/3", "pi", "dt/ms", "e"]
ODD_NUMBERS = ["1e300", "1e-300", "inf", "0/1", "10**15", "3*mV", "nan", "1j"]
FORMS = ["1/(1 + exp(-{}))", "log(1 + exp({}))", "-{}", "sqrt(1 + ({})**2)"]
POWERS = ["2", "3", "0.5", "-1", "-2", "1.5", "k", "0.1234567", "16"]
NAMES = ["r", "S", "beta", "E", "rate", "t0", "a0_0", "int", "f_tanh", "x"]


@st.composite
def expressions(draw, names, depth=3, odd=False):
    """An expression of names, numbers, operations and functions."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([*names, *names, *(ODD_NUMBERS if odd else NUMBERS)]))

    def part():
        return draw(expressions(names, depth - 1, odd))

    kind = draw(st.integers(0, 9))
    if kind <= 3:
        return f"({part()} {draw(st.sampled_from('+-*/' if kind else '+*'))} {part()})"
    if kind == 4:
        return f"({part()})**{draw(st.sampled_from(POWERS))}"
    if kind == 5:
        return f"where({part()} {draw(st.sampled_from(['<', '<=', '>', '>=']))} {part()}, {part()}, {part()})"
    if kind == 6:
        name = draw(st.sampled_from(["clip", "maximum", "minimum"]))
        bounds = [
            draw(st.sampled_from(["0", "1", "inf", "-inf", part()])) for _ in range(FUNCTIONS[name].arguments - 1)
        ]
        return f"{name}({', '.join([part(), *bounds])})"
    if kind == 7:
        return draw(st.sampled_from(FORMS)).format(part())
    return f"{draw(st.sampled_from(CALLS))}({part()})"


@st.composite
def populations(draw, name):
    """A population's table, and its inputs."""
    odd = draw(st.integers(0, 7)) == 0
    states = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    inputs = ["u", "v"][: draw(st.integers(1, 2))]
    depth = draw(st.integers(1, 4))
    known, lines = [*states, *inputs, "k"], []
    for k in range(draw(st.integers(0, 4))):  # a chain: each may use those before it
        lines.append(f"q{k} = {draw(expressions(known, min(depth, 2), odd))} : 1")
        known.append(f"q{k}")
    unit = draw(st.sampled_from(["1"] * 12 + ["volt", "second"]))
    method = draw(st.sampled_from(["euler", "euler", "exponential_euler", "exact", "update"]))
    noise = draw(st.sampled_from(["", "", "", " + k*xi*tau**0.5"])) if method == "euler" else ""
    bodies = [draw(expressions(known, depth, odd)) for _ in states]
    if method == "exact":
        bodies = [" + ".join(f"{k + 1}*{s}" for k, s in enumerate(states)) + " + tanh(u)" for _ in states]
    if method == "update":
        update = "\n".join(f"{s} = {body}" for s, body in zip(states, bodies, strict=True))
        lines += [f"{s} : 1" for s in states]
        extra = f"update = '''\n{update}\n'''"
    else:
        lines += [
            f"d{s}/dt = (-{s} + {body}{noise if k == 0 else ''})/tau : {unit}"
            for k, (s, body) in enumerate(zip(states, bodies, strict=True))
        ]
        extra = f'method = "{method}"'
    lines += [f"{name} : 1" for name in (*inputs, "k")] + ["tau : second"]
    text = "\n".join(lines)
    quoted = ", ".join(f'"{name}"' for name in inputs)
    tau = draw(st.sampled_from(["5*ms", "5*ms", "5*ms", "20*ms", "3"]))
    table = f"equations = '''\n{text}\n'''\nrate = \"{draw(st.sampled_from(states))}\"\ninputs = [{quoted}]\n"
    return f'[populations.{name}]\n{table}parameters = {{ tau = "{tau}", k = 1.3 }}\n{extra}\n'


@st.composite
def texts(draw):
    """A whole model file; sometimes one of its characters is another."""
    names = [f"p{k}" for k in range(draw(st.sampled_from([1, 1, 1, 2, 3])))]
    text = "".join(draw(populations(name)) for name in names)
    for name in names if len(names) > 1 or draw(st.booleans()) else []:
        delay = draw(st.sampled_from(["", 'delay = "2*ms"\n', 'delay = "20*ms"\n']))
        text += f'[[projections]]\nfrom = "{name}"\nto = "{draw(st.sampled_from(names))}"\n{delay}'
    text += '[time]\ndt = "1*ms"\n'
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(text) - 1))
        text = text[:place] + draw(st.sampled_from(list("()*=:\"'.0[]#\n x"))) + text[place + 1 :]
    return text
