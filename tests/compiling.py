"""Whether there is a C compiler, for tests of what it compiles."""

import bpl_neuro as bpl
from bpl_neuro.backend.compiler import command

try:
    COMPILER = command()
except bpl.BackendError:
    COMPILER = None
