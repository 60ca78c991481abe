"""The functions a model text may call: one entry each, which everything else reads.

A function is allowed when it has a derivative almost everywhere and a stated value at its kinks. Everything else is
refused by name. Entries further down that are not `written` are what derivatives are made of.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.model import array_forms
from bpl_neuro.model.array_forms import switch
from bpl_neuro.model.names import device_function

__all__ = ["FLAT", "FUNCTIONS", "HEADS", "REFUSED_FUNCTIONS", "Function", "register", "written_functions"]


@dataclass(frozen=True, eq=False)
class Function:
    """One function, in every language that a model is turned into.

    Attributes
    ----------
    name : str
        As it is called in a text; ``bpl_name`` in CUDA.
    arguments : int
    slopes : callable or None
        Symbolic arguments → the derivative with respect to each. None: nothing needs its derivative.
    array : str or callable
        The array library's function of that name, or a function of xp and the arguments.
    cuda : str
        Body of a device function of ``REAL x``, ``a``, ``b``, as many as there are arguments.
    kink : str
        Where it has no derivative, and what is taken there.
    form : callable, optional
        Its symbolic form, where SymPy has one; else one is made, which SymPy never rewrites.
    simpler : callable, optional
        Symbolic arguments → a simpler form, or None.
    switches : bool
        Its slopes are 0 and 1. An argument that is switched off has no part in the derivative, even if its own is not
        finite: 0 · ∞ would be no number.
    finite_at : float, optional
        Where the slope is infinite at a finite value: the slope is taken here instead where the argument does not move.
    units : tuple, optional
        Where Brian2 does not know the function: the unit of each argument as Brian2's ``arg_units`` has it, with the
        names x, a and b (1: none; None: any; "x": that of x).
    unit_of : int, optional
        Which argument's unit the value has; none by default.
    together : callable, optional
        A cheaper array form for several calls at once: of xp, (name, which argument) of each, and the arguments. The
        same bits as one by one.
    written : bool
        Whether a text may call it.
    """

    name: str
    arguments: int
    slopes: Callable[..., tuple[Any, ...]] | None
    array: str | Callable[..., Any]
    cuda: str
    kink: str = ""
    form: Any = None
    simpler: Callable[..., sp.Expr | None] | None = None
    switches: bool = False
    finite_at: float | None = None
    units: tuple[Any, ...] | None = None
    unit_of: int | None = None
    together: Callable[[Any, Sequence[tuple[str, int]], Sequence[Any]], Sequence[Any]] | None = None
    written: bool = True

    def of(self, xp: Any) -> Callable[..., Any]:
        """The array form in an array namespace."""
        return getattr(xp, self.array) if isinstance(self.array, str) else functools.partial(self.array, xp)

    @property
    def device_code(self) -> str:
        """The CUDA function."""
        parameters = ", ".join(f"REAL {name}" for name in "xab"[: self.arguments])
        return f"__device__ inline REAL {device_function(self.name)}({parameters}) {{ {self.cuda} }}"


#: by name, and by the name of the symbolic form
FUNCTIONS: dict[str, Function] = {}
HEADS: dict[str, Function] = {}


class _Real(sp.Function):
    """Base of the symbolic forms that are made here: real for real arguments, never rewritten by SymPy."""

    @classmethod
    def eval(cls, *arguments: sp.Expr) -> sp.Expr | None:
        """The value, where all arguments are numbers; or a simpler form."""
        function = HEADS[cls.__name__]
        if all(a.is_number for a in arguments):
            with np.errstate(all="ignore"):
                value = float(function.of(np)(*(float(a) for a in arguments)))
            return sp.Integer(value) if value in (0, 1, -1) else sp.Float(value)
        return function.simpler(*arguments) if function.simpler else None

    def _eval_is_extended_real(self) -> bool:
        return True


def register(function: Function) -> Any:
    """Add a function to the table.

    Returns
    -------
    callable
        Its symbolic form.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    form = function.form or types.new_class(function.name, (_Real,))  # SymPy's are classes named like functions
    if function.name in FUNCTIONS or form.__name__ in HEADS:
        raise ValueError(f"there is a function {function.name!r} already")
    FUNCTIONS[function.name] = HEADS[form.__name__] = replace(function, form=form)
    return form


def written_functions() -> list[str]:
    """Names of the functions that a text may call."""
    return [name for name, function in FUNCTIONS.items() if function.written]


def _flat(*arguments: sp.Expr) -> tuple[int, ...]:
    return (0,) * len(arguments)


# What derivatives are made of.

between = register(
    Function(  # x in ]a, b[
        "between", 3, _flat, lambda xp, x, a, b: switch(xp.logical_and(x > a, x < b), x, a, b),
        "return REAL(x > a && x < b);", written=False,
    )
)  # fmt: skip
above = register(
    Function("above", 2, _flat, lambda xp, x, a: switch(x >= a, x, a), "return REAL(x >= a);", written=False)
)
below = register(
    Function("below", 2, _flat, lambda xp, x, a: switch(x < a, x, a), "return REAL(x < a);", written=False)
)
sigmoid_slope = register(
    Function(
        "sigmoid_slope", 1, None, array_forms.sigmoid_slope,
        "const REAL e = exp(-fabs(x)), y = 1 / (1 + e); return e * y * y;",
        together=array_forms.sigmoids, written=False,
    )
)  # fmt: skip
exprel_slope = register(
    Function(
        "exprel_slope", 1, None, array_forms.exprel_slope,
        "if (fabs(x) < 1) { REAL sum = 0; "
        + " ".join(f"sum = sum * x + REAL({c!r});" for c in reversed(array_forms.SLOPE_SERIES))
        + " return sum; } const REAL h = exp(x / 2); return h * ((x - 1) / x) * (h / x) + 1 / x / x;",
        written=False,
    )
)  # fmt: skip

# Smooth functions.

exp = register(Function("exp", 1, lambda x: (sp.exp(x),), "exp", "return exp(x);", form=sp.exp))
log = register(Function("log", 1, lambda x: (1 / x,), "log", "return log(x);", form=sp.log))
log10 = register(Function("log10", 1, lambda x: (1 / (x * math.log(10)),), "log10", "return log10(x);"))
sqrt = register(Function("sqrt", 1, None, "sqrt", "return sqrt(x);", form=sp.sqrt))  # SymPy makes a power of it
sin = register(Function("sin", 1, lambda x: (sp.cos(x),), "sin", "return sin(x);", form=sp.sin))
cos = register(Function("cos", 1, lambda x: (-sp.sin(x),), "cos", "return cos(x);", form=sp.cos))
tan = register(Function("tan", 1, lambda x: (1 + sp.tan(x) ** 2,), "tan", "return tan(x);", form=sp.tan))
arcsin = register(
    Function(
        "arcsin", 1, lambda x: (1 / sp.sqrt(1 - x**2),), "arcsin", "return asin(x);", form=sp.asin, finite_at=0
    )
)  # fmt: skip
arccos = register(
    Function(
        "arccos", 1, lambda x: (-1 / sp.sqrt(1 - x**2),), "arccos", "return acos(x);", form=sp.acos, finite_at=0
    )
)  # fmt: skip
arctan = register(Function("arctan", 1, lambda x: (1 / (1 + x**2),), "arctan", "return atan(x);", form=sp.atan))
sinh = register(Function("sinh", 1, lambda x: (sp.cosh(x),), "sinh", "return sinh(x);", form=sp.sinh))
cosh = register(Function("cosh", 1, lambda x: (sp.sinh(x),), "cosh", "return cosh(x);", form=sp.cosh))
tanh = register(Function("tanh", 1, lambda x: (1 - sp.tanh(x) ** 2,), "tanh", "return tanh(x);", form=sp.tanh))
expm1 = register(Function("expm1", 1, lambda x: (sp.exp(x),), "expm1", "return expm1(x);"))
log1p = register(Function("log1p", 1, lambda x: (1 / (1 + x),), "log1p", "return log1p(x);"))
exprel = register(
    Function(  # (exp(x) − 1)/x, 1 at x = 0
        "exprel", 1, lambda x: (exprel_slope(x),), array_forms.exprel,
        "const REAL h = expm1(x / 2); return fabs(x) < REAL(1e-30) ? REAL(1) : h / x * (h + 2);",
    )
)  # fmt: skip
erf = register(
    Function(
        "erf", 1, lambda x: (2 * sp.exp(-(x**2)) / sp.sqrt(sp.pi),), array_forms.erf, "return erf(x);",
        form=sp.erf, units=(1,),
    )
)  # fmt: skip
sigmoid = register(
    Function(  # 1/(1 + exp(−x)); an infinite exp(−x) is right in CUDA, and warns of nothing
        "sigmoid", 1, lambda x: (sigmoid_slope(x),), array_forms.sigmoid, "return 1 / (1 + exp(-x));",
        units=(1,), together=array_forms.sigmoids,
    )
)  # fmt: skip
softplus = register(
    Function(  # log(1 + exp(x))
        "softplus", 1, lambda x: (sigmoid(x),), array_forms.softplus,
        "return (x > 0 ? x : REAL(0)) + log1p(exp(-fabs(x)));", units=(1,),
    )
)  # fmt: skip

# Functions with kinks.

sign = register(Function("sign", 1, _flat, "sign", "return x != x ? x : REAL((x > 0) - (x < 0));", kink="0 everywhere"))
absolute = register(Function("abs", 1, lambda x: (sign(x),), "abs", "return fabs(x);", kink="0 at 0"))
relu = register(
    Function(
        "relu", 1, lambda x: (below(0, x),), lambda xp, x: xp.maximum(x, 0), "return x < 0 ? REAL(0) : x;",
        kink="0 at 0", switches=True, units=(None,), unit_of=0,
    )
)  # fmt: skip
maximum = register(
    Function(
        "maximum", 2, lambda x, a: (below(a, x), above(a, x)), "maximum", "return x > a || x != x ? x : a;",
        kink="that of the second where they are equal", switches=True, units=(None, "x"), unit_of=0,
    )
)  # fmt: skip
minimum = register(
    Function(
        "minimum", 2, lambda x, a: (below(x, a), above(x, a)), "minimum", "return x < a || x != x ? x : a;",
        kink="that of the second where they are equal", switches=True, units=(None, "x"), unit_of=0,
    )
)  # fmt: skip
clip = register(
    Function(  # min(max(x, a), b): where the bounds cross it is b
        "clip", 3, lambda x, a, b: (between(x, a, b), above(a, x) * below(a, b), above(maximum(x, a), b)),
        lambda xp, x, a, b: xp.minimum(xp.maximum(x, a), b), "x = x < a ? a : x; return x > b ? b : x;",
        kink="that of the bound at a bound", switches=True,
    )
)  # fmt: skip
where = register(
    Function(  # x, a condition, is 1 or 0
        "where", 3, lambda x, a, b: (0, x, 1 - x), array_forms.where, "return x != 0 ? a : b;",
        kink="that of the branch taken", switches=True, units=(bool, None, "a"), unit_of=1,
        simpler=lambda x, a, b: (b if x.is_zero else a) if x.is_number else (a if a == b else None),
    )
)  # fmt: skip

#: symbolic forms whose derivative is 0 everywhere
FLAT = (between, above, below, sign)

#: functions Brian2 knows and we refuse, with the reason a person needs
REFUSED_FUNCTIONS = {
    "floor": "its derivative is 0 everywhere, so nothing could be learned through it",
    "ceil": "its derivative is 0 everywhere, so nothing could be learned through it",
    "int": "its derivative is 0 everywhere; write a threshold as clip(x, 0, inf)",
    "rand": "a random number has no derivative and would break repeatability",
    "randn": "a random number has no derivative and would break repeatability",
    "poisson": "a random number has no derivative and would break repeatability",
    "timestep": "it is not a function of a neuron's state",
}
