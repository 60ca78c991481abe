"""TOML texts made to hang, exhaust or fool the reader: a model or a ModelError must come back."""

TAIL = "\nu : 1\ntau : second\nk : 1"


def toml(equations, rate="r", inputs='["u"]', extra="", head="", parameters='{ tau = "5*ms", k = 2.0 }'):
    return (
        f"{head}[populations.cortex]\nequations = '''\n{equations}\n'''\nrate = \"{rate}\"\ninputs = {inputs}\n"
        f'parameters = {parameters}\n{extra}\n[time]\ndt = "1*ms"\n'
    )


def slope(expression, **keywords):
    return toml(f"dr/dt = (-r + {expression}) / tau : 1{TAIL}", **keywords)


def chain(step, n=60, first="u + r", **keywords):
    """Subexpressions a1 … an, each of the one before it, written {a}."""
    lines = [f"a{k + 1} = {step.format(a=f'a{k}', k=k)} : 1" for k in range(n)]
    return toml(f"dr/dt = (-r + a{n}) / tau : 1\na0 = {first} : 1\n" + "\n".join(lines) + TAIL, **keywords)


def nested(call, n=58, inner="u"):
    """A call of {a} inside itself, n deep."""
    for _ in range(n):
        inner = call.replace("{a}", inner)
    return slope(inner)


def dense(term, n, method="euler", tail=""):
    """n states, each of all: {i} and {j}."""
    rows = [
        f"dx{i}/dt = (-x{i} + u + " + " + ".join(term.format(i=i, j=j) for j in range(n)) + ")/tau : 1"
        for i in range(n)
    ]
    return toml("\n".join(rows) + TAIL + tail, rate="x0", extra=f'method = "{method}"')


def many_populations(n, delay="1*ms"):
    """A ring of n populations."""
    texts = [
        f'[populations.p{k}]\nequations = "dr/dt = (-r + tanh({k}*u))/(5*ms) : 1\\nu : 1"\nrate = "r"\ninputs = ["u"]\n'
        for k in range(n)
    ]
    links = [f'[[projections]]\nfrom = "p{k}"\nto = "p{(k + 1) % n}"\ndelay = "{delay}"\n' for k in range(n)]
    return "".join(texts + links) + '[time]\ndt = "1*ms"\n'


def discrete(equations, update, rate="x0"):
    """A model of assignments."""
    table = f"equations = '''\n{equations}\nu : 1\n'''\nupdate = '''\n{update}\n'''\n"
    return f'[populations.c]\n{table}rate = "{rate}"\ninputs = ["u"]\n'


def lines(text, numbers):
    """A line for each number {k}, with its neighbours {before} and {after}."""
    return "\n".join(text.format(k=k, before=k - 1, after=k + 1) for k in numbers)


def sums(join, call, n):
    """A sum, or product, of n of n calls of {k} each."""
    return join.join("(" + join.join(call.format(k=20 * k + j) for j in range(n)) + ")" for k in range(n))


PRODUCT = "*".join(f"(u + {k}*r)" for k in range(1, 50))
HOSTILE = {
    "chained squares": chain("{a}**2"),
    "chained squares of a number": chain("{a}**2", first="3"),
    "chained powers of a number with a unit prefix": chain("{a}**16", first="2*u"),
    "chained powers of a third": chain("({a}/3)**16", n=20),
    "chained roots": chain("sqrt({a})"),
    "chained powers of 0.1234567": chain("{a}**0.1234567"),
    "chained sums that double": chain("{a} + {a}**2"),
    "chained products that double": chain("{a}*({a} + 1)"),
    "chained calls that double": chain("tanh({a}) + sin({a})"),
    "chained calls three times": chain("tanh({a} + u)*{a}*({a} + r)"),
    "chained deep": chain("tanh({a})", n=90),
    "chained deep sums": chain("tanh({a} + u*{a})", n=90),
    "chained exponentials of a number": chain("exp({a})", first="2"),
    "chained logarithms of a number": chain("log({a})", first="1e300"),
    "chained sines of a number": chain("sin({a}*999983)", first="999983"),
    "chained clip": chain("clip({a}, -{a}, {a} + 1)", n=20),
    "chained where": chain("where({a} > 0, {a}, -{a})", n=20),
    "chained maximum": chain("maximum({a}, {a}*u)", n=20),
    "chained sigmoids": chain("1/(1 + exp(-{a}))", n=40),
    "chained softplus": chain("log(1 + exp({a}))", n=40),
    "chained divisions": chain("1/(1 + u/{a})", n=60),
    "chained parameters in powers": chain("{a}**k", n=60),
    "nested sqrt": nested("sqrt({a})"),
    "nested sqrt of sums": nested("sqrt(1 + {a})"),
    "nested clip of abs": nested("clip(abs({a}), 0, 9)", n=29),
    "nested clip three times": nested("clip({a}, 0, {a})", n=8),
    "nested maximum twice": nested("maximum({a}, 2*{a})", n=9),
    "nested abs": nested("abs({a})"),
    "nested maximum": nested("maximum({a}, 0)"),
    "nested relu": nested("relu({a})"),
    "nested where": nested("where({a} > 0, 1, 2)"),
    "nested sign": nested("sign({a})"),
    "nested exp": nested("exp({a})"),
    "nested exp of a number": nested("exp({a})", inner="3"),
    "nested powers": nested("({a})**16"),
    "nested powers of a number": nested("({a})**16", inner="3"),
    "nested powers of small numbers": nested("({a})**16", inner="1e-9"),
    "nested tanh of sums": nested("tanh(u + r*{a})"),
    "nested sigmoid of sums": nested("1/(1 + exp(-4*(u + {a})))", n=19),
    "nested arcsin": nested("arcsin({a})"),
    "nested products": nested("(u + k*{a})"),
    "nested products with numbers": nested("999999*(u + {a})"),
    "a product of sums": slope(PRODUCT),
    "a product of sums in an exponential": slope(f"exp({PRODUCT})/(1 + exp({PRODUCT}))"),
    "a product of sums in a sigmoid": slope(f"exp(-{PRODUCT})/(1 + exp(-{PRODUCT}))**2"),
    "a power of a product of sums": slope(f"({PRODUCT})**0.5"),
    "a long sum": slope("+".join(f"sin({k}*u)" for k in range(110))),
    "a wide balanced sum": slope(sums("+", "tanh({k}*u)", 18)),
    "a wide sum": slope(sums("+", "tanh({k}*u)", 14)),
    "a wide product of calls": slope(sums("*", "cos({k}*u + r)", 13)),
    "long integers": slope("*".join(["999999"] * 110) + "*u"),
    "long fractions": slope("/".join(["u", *["999983"] * 110])),
    "sums of fractions": slope("+".join(f"u/{999983 - k}" for k in range(110))),
    "an integer of 300 digits": slope("9" * 300 + "*u"),
    "an integer of 5000 digits": slope("9" * 5000 + "*u"),
    "a tiny power": slope("u**1e-300"),
    "a tiny number to powers": slope("(1e-300*u)**16"),
    "a huge number to powers": slope("(1e300*u)**16"),
    "a power of 15 digits": slope("(1 + u*u)**0.123456789012345"),
    "a tower in an exponent": slope("u**(k**(k**(k**k)))"),
    "a polynomial under a root": slope("(u**16 - 3*u**7*r + 1e-9*r**15 + 2*u**3 - 1)**0.5"),
    "an exponential that overflows": slope("exp(1000)*u"),
    "an imaginary root": slope("sqrt(-u**2)"),
    "a root of minus one": slope("sqrt(-1)*u"),
    "an infinite input": slope("u + inf"),
    "infinity through a bound": slope("maximum(u, inf)"),
    "zero divided": slope("(u - u)/(u - u)"),
    "zero by subtraction": slope("1/(u - u)"),
    "noise by the hundred": slope("+".join(f"xi_{k}*tau**0.5" for k in range(90))),
    "exact of 30 states": dense("{j}*x{j}", 30, "exact"),
    "exact of 60 states": dense("x{j}", 60, "exact"),
    "exponential Euler of 30 products": dense("x{j}*u", 30, "exponential_euler"),
    "exponential Euler of products of sums": dense("x{i}*(x{j} + {j})", 20, "exponential_euler"),
    "40 dense states": dense("sin(x{j})", 40),
    "40 dense states of products": dense("x{i}*x{j}", 40),
    "thousands of equations": toml("dr/dt = (-r + u)/tau : 1\n" + "\n".join(f"q{k} : 1" for k in range(1500)) + TAIL),
    "99 states alone": toml("\n".join(f"dx{k}/dt = (-x{k} + u)/tau : 1" for k in range(95)) + TAIL, rate="x0"),
    "thirty populations with delays": many_populations(30, "200*ms"),
    "four hundred populations": many_populations(400),
    "a thousand projections": many_populations(3) + '[[projections]]\nfrom = "p0"\nto = "p0"\n' * 1000,
    "a long dotted key": ".".join(["a"] * 30_000) + " = 1\n",
    "a long quoted dotted key": ".".join(['"a"'] * 15_000) + " = 1\n",
    "a long table name": "[" + ".".join(["a"] * 30_000) + "]\n",
    "ten dotted keys": "\n".join(f"a{k}." + ".".join(["b"] * 3000) + " = 1" for k in range(10)),
    "dotted keys of 15 parts": "\n".join(f"a{k}." + ".".join("b" * 14) + " = 1" for k in range(1900)),
    "many tables": "".join(f"[t{k}]\n" for k in range(8000)),
    "many array tables": "[[t]]\n" * 12_000,
    "a huge array": slope("u", extra="initial = { r = [" + "1," * 30_000 + "] }"),
    "an array of inputs": slope("u", inputs="[" + '"u",' * 15_000 + "]"),
    "different inputs": slope("u", inputs="[" + ",".join(f'"u{k}"' for k in range(8000)) + "]"),
    "a deep array": slope("u", extra="initial = { r = " + "[" * 30_000 + "]" * 30_000 + " }"),
    "a deep inline table": slope("u", extra="initial = " + "{a=" * 15_000 + "1" + "}" * 15_000),
    "an array less deep": slope("u", extra="initial = { r = " + "[" * 150 + "]" * 150 + " }"),
    "a parameter as a list": slope("u", parameters="{ tau = [1, 2, 3], k = 1 }"),
    "a thousand parameters": slope(
        "u", parameters='{ tau = "5*ms", ' + ",".join(f"q{k} = 1" for k in range(5000)) + " }"
    ),
    "a TOML integer of 5000 digits": slope("u", parameters='{ tau = "5*ms", k = ' + "9" * 5000 + " }"),
    "a TOML integer of 400 digits": slope("u", parameters='{ tau = "5*ms", k = ' + "9" * 400 + " }"),
    "a hexadecimal of 60 000 digits": slope("u", parameters='{ tau = "5*ms", k = 0x' + "f" * 60_000 + " }"),
    "a hexadecimal in place of a text": slope("u", rate='r"\ntitel = 0x' + "f" * 60_000 + '\n#'),
    "a quantity of powers": slope("u", parameters='{ tau = "5*ms", k = "(((9**16)**16)**16)**16" }'),
    "a quantity of integers": slope("u", parameters='{ tau = "5*ms", k = "' + "*".join(["9" * 250] * 60) + '" }'),
    "a long unit": toml(f"dr/dt = (-r + u)/tau : 1\nq : {'*'.join(['second**9'] * 1500)}{TAIL}"),
    "a long unit of numbers": toml(f"dr/dt = (-r + u)/tau : 1\nq : {'*'.join(['9' * 200] * 80)}{TAIL}"),
    "a unit divided by zero": toml(f"dr/dt = (-r + u)/tau : 1\nq : second/0{TAIL}"),
    "a long name": toml(f"dr/dt = (-r + {'q' * 9000})/tau : 1\n{'q' * 9000} : 1{TAIL}"),
    "a name of many lines": toml("dr/dt = (-r + u)/tau : 1\n" + "\n" * 15_000 + TAIL),
    "colons": toml(":" * 15_000),
    "hashes": toml("#" * 15_000 + "\n" + TAIL),
    "equals": toml("=" * 15_000),
    "blanks": toml(f"dr/dt = (-r + u)/tau {' ' * 15_000}: 1{TAIL}"),
    "commas in flags": toml(f"dr/dt = (-r + u)/tau : 1\nq : 1 ({','.join(['constant'] * 1500)}){TAIL}"),
    "unicode names": toml(f"dr/dt = (-r + ｕ)/tau : 1{TAIL}"),
    "unicode digits": toml(f"dr/dt = (-r + ２*u)/tau : 1{TAIL}"),
    "unicode of the same shape": toml(f"dr/dt = (-r + u)/tau : 1\nr\u0430 : 1{TAIL}"),
    "unicode in an update": discrete("h : 1", "ｈ = ｕ + h", "h"),
    "right to left": slope("u\u202e"),
    "a form feed": slope("u\\f"),
    "a NUL": slope("u").replace("tanh", "\\u0000"),
    "a title of everything": slope("u", head="title = '" + "\U0001f600" * 15_000 + "'\n"),
    "code in a name": slope("u", rate="__import__('os')"),
    "code in a population": slope("u").replace("populations.cortex", "populations.\"__import__('os')\""),
    "an update that doubles": discrete(
        lines("x{k} : 1", range(60)),
        "x0 = x0*u + x1\n" + lines("x{k} = x{before}*tanh(x{before}) + u", range(1, 60)),
    ),
    "an update with subexpressions": discrete(
        lines("x{k} : 1\ns{k} = x{k}*x{after} : 1", range(40)) + "\nx40 : 1", lines("x{k} = tanh(s{k} + u)", range(40))
    ),
    "an update of numbers": discrete("x : 1\ny : 1\nz : 1", "x = 300.5\ny = exp(x)\nz = exp(y)*u", "z"),
    "a synthesiser that doubles": slope("u") + "[synthesiser]\nequations = '''\ng = a40 : 1\nv : 1\na0 = v : 1\n"
    + lines("a{after} = a{k}*tanh(a{k}) : 1", range(40)) + "\n'''\n",
    "an expansion without end": slope("u") + "[synthesiser.expansion]\nsize = 1000000000000\nfan_in = 3\n",
}  # fmt: skip
