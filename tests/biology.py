"""The model of several test files: noise, delays, and projections that are sparse, signed and frozen."""

TEXT = """
title = "E and I with everything"
[populations.exc]
equations = '''
dx/dt = (-x + u) / tau + sigma * xi / tau**0.5 : 1
r = tanh(x) : 1
u : 1
tau : second (constant)
sigma : 1 (constant)
'''
rate = "r"
inputs = ["u"]
parameters = { tau = "10*ms", sigma = 0.2 }
initial = { x = 0.3 }
[populations.inh]
equations = "dr/dt = (-r + tanh(u)) / tau : 1\\nu : 1\\ntau : second (constant)"
rate = "r"
inputs = ["u"]
parameters = { tau = "5*ms" }
[[projections]]
from = "exc"
to = "exc"
sign = "+"
probability = 0.7
self = false
delay = "2*ms"
[[projections]]
from = "exc"
to = "inh"
sign = "+"
delay = "1*ms"
[[projections]]
from = "inh"
to = "exc"
sign = "-"
[[projections]]
from = "inh"
to = "inh"
sign = "-"
plastic = false
[[projections]]
from = "input"
to = "exc"
[time]
dt = "1*ms"
"""
SIZES = {"exc": 5, "inh": 3}
