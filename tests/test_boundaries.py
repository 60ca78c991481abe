"""Where the package meets what is not its own: threads, signals, CuPy, slow servers; a user's tasks, losses, rules."""

import http.server
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.backend import get_backend
from bpl_neuro.tasks import mnist_files

CIRCUIT = bpl.Circuit("leaky_tanh", 3, 2)
READOUT = bpl.Readout(CIRCUIT, 2)
BATCH = bpl.Batch(np.ones((2, 4, 2)), np.zeros((2, 4, 2)))
FIRST_USE = """
import signal, sys, threading
def mine(*_): pass
signal.signal(signal.SIGINT, mine)
sys.excepthook = mine
import bpl_neuro as bpl
found = []
def use():
    found.append(bpl.Circuit("leaky_tanh", 3, 2).psi.sum())
if {threads}:
    threads = [threading.Thread(target=use) for _ in range({threads})]
    [t.start() for t in threads]; [t.join() for t in threads]
else:
    use()
assert len(found) == max({threads}, 1) and len(set(found)) == 1, found
assert signal.getsignal(signal.SIGINT) is mine and sys.excepthook is mine
assert signal.signal.__module__ == "signal"
"""


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_first_use_in_any_thread_leaves_handlers_alone(threads):
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_USE.format(threads=threads)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "error", [ImportError, SystemError, RuntimeError, OSError, AttributeError, ValueError, KeyError]
)
def test_a_cupy_that_fails_at_import(error, monkeypatch):
    class Finder:
        def find_spec(self, name, *_):
            if name == "cupy":
                raise error("broken")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(bpl.BackendError, match=r"cannot be imported .*broken"):
        get_backend("cupy")
    assert get_backend("auto").name == "numpy"


@pytest.mark.parametrize("module", [types.ModuleType("cupy"), types.SimpleNamespace(cuda=None)])
def test_something_else_that_is_called_cupy(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(bpl.BackendError, match="not CuPy"):
        bpl.Circuit("leaky_tanh", 3, 2, backend="cupy")


@pytest.mark.parametrize("part", ["headers", "bytes"])
def test_a_deadline_is_kept_against_a_trickle(part, monkeypatch, tmp_path):
    ended = threading.Event()

    class Trickle(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if part == "bytes":
                self.send_response(200)
                self.send_header("Content-Length", "9000000")
                self.end_headers()
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not ended.wait(0.1):
                try:
                    self.wfile.write(b"a")
                    self.wfile.flush()
                except OSError:
                    return

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(mnist_files, "_DEADLINE", 1.0)
        monkeypatch.setattr(mnist_files, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
        monkeypatch.setattr(mnist_files, "user_cache_path", lambda name: tmp_path)
        monkeypatch.delenv("BPL_NEURO_DATA", raising=False)
        begun = time.monotonic()
        with pytest.raises(bpl.ValidationError, match="longer than 1 s"):
            mnist_files.load_mnist()
        took = time.monotonic() - begun
        ended.set()
        server.shutdown()
    assert took < 20  # a bound on hanging, not on speed
    assert not list(tmp_path.rglob("*.gz"))


def trainer(rule=None, readout=READOUT, **options):
    return bpl.Trainer(CIRCUIT, readout, rule or bpl.rules.BPTT(CIRCUIT), **options)


class Own:
    """A user's task that gives what it is told to."""

    name, input_size, output_size, loss = "own", 2, 2, "squared_error"

    def __init__(self, given):
        self.given = given

    def batches(self, rng, size, split="train"):
        return self.given


@pytest.mark.parametrize("given", [[], iter([]), (), None, 3, [None], [BATCH.x], "ab", {}])
def test_a_task_that_gives_nothing_or_nonsense(given):
    on = trainer()
    for call in (lambda: on.fit(Own(given), epochs=3, validate=False, progress=False), lambda: on.evaluate(Own(given))):
        with pytest.raises(bpl.ValidationError, match=r"task"):
            call()
    assert on.epoch == on.batches == 0


def test_a_task_whose_iterator_is_used_up():
    on = trainer()
    with pytest.raises(bpl.ValidationError, match="used up"):
        on.fit(Own(iter([BATCH])), epochs=3, validate=False, progress=False)
    assert on.epoch == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", ["bptt", "eprop"])
def test_a_loss_that_is_no_number_is_a_divergence(value, rule):
    def loss(xp, y, target):
        return np.full(len(y), value), y - target

    on = trainer(bpl.make_rule(rule, CIRCUIT), bpl.Readout(CIRCUIT, 2, loss))
    before = on.state.psi.copy()
    for call in (lambda: on.train_batch(BATCH), lambda: on.evaluate(Own([BATCH]))):
        with pytest.raises(bpl.DivergenceError, match="`loss` stopped being finite at step 1 of batch 1") as caught:
            call()
        assert (caught.value.quantity, caught.value.step, caught.value.batch) == ("loss", 1, 0)
    assert (on.state.psi == before).all()


def test_a_loss_that_overflows_with_finite_parameters():
    on = bpl.Circuit("leaky_tanh", 3, 2, dtype="float32")
    far = bpl.Batch(BATCH.x, np.full((2, 4, 2), 1e30))
    with pytest.raises(bpl.DivergenceError, match="`loss`"):
        bpl.batch_updates(on, bpl.Readout(on, 2), bpl.rules.BPTT(on), far)


@pytest.mark.parametrize(
    "gives", [None, 3, "ab", (1,), np.zeros(2), (np.zeros(2), np.zeros(2)), (np.zeros(3), np.zeros((2, 2))),
              ("a", "b"), (None, None), (np.zeros(2), np.zeros((2, 2), complex)), (np.zeros((2, 1)), np.zeros((2, 2)))],
)  # fmt: skip
def test_a_loss_that_breaks_its_contract(gives):
    with pytest.raises(bpl.ValidationError, match="`loss`"):
        trainer(readout=bpl.Readout(CIRCUIT, 2, lambda *_: gives)).train_batch(BATCH)


@pytest.mark.parametrize(
    "gives", [None, 3, ({}, {}), ({}, None, None), ({}, {}, 3), ({}, {}, np.zeros(2)), [{}, {}, None]]
)
def test_a_rule_that_breaks_its_contract(gives):
    class Broken(bpl.Rule):
        name, online, exact, local, memory, time = "broken", True, False, True, "", ""
        circuit = CIRCUIT

        def step(self, *_):
            return gives

    with pytest.raises(bpl.ValidationError, match="Broken"):
        trainer(Broken()).train_batch(BATCH)


@pytest.mark.parametrize("gives", [None, [], {"psi": np.zeros(2)}, {"nonsense": np.zeros(2)}, {"theta": np.zeros(2)}])
def test_a_deferred_rule_that_breaks_its_contract(gives):
    class Broken(bpl.rules.BPTT):
        def finish(self, *_):
            return gives

    with pytest.raises(bpl.ValidationError, match=r"BPTT|nonsense"):
        trainer(Broken(CIRCUIT)).train_batch(BATCH)


def test_parameters_that_are_set_leave_a_silenced_projection_silent():
    on = bpl.interventions.silence_projection(trainer(), "cortex->cortex")
    on.set_parameters(psi=np.ones(CIRCUIT.psi.size))
    assert (on.weights["cortex->cortex"] == 0).all() and (on.weights["input->cortex"] == 1).all()


@pytest.mark.parametrize("trace", ["local", "sweep"])
@pytest.mark.parametrize("kind", ["random", "sign", "noisy"])
def test_a_passive_rule_hears_through_its_own_feedback(trace, kind):
    rule = bpl.rules.EProp(CIRCUIT, trace=trace, feedback=kind)
    on = trainer(optimiser={}, rate_penalty=0.0)
    passive = bpl.PassiveRules(on, [rule])
    passive.batch_done(on, on.train_batch(BATCH, passive.watch))
    alone = bpl.compare(CIRCUIT, READOUT, BATCH, [rule])
    found = passive.result().isel(batch=0)
    for figure in ("cosine", "norm_ratio"):
        np.testing.assert_allclose(found[figure].values, alone[figure].values, rtol=1e-9)


@pytest.mark.parametrize("wrong", [{"radius": 1e200}, {"input_scale": 1e200}, {"parameters": {"tau": "1e200*second"}}])
def test_what_overflows_in_single_precision_is_refused(wrong):
    bpl.Circuit("leaky_tanh", 3, 2, **wrong)
    with pytest.raises(bpl.ValidationError, match=rf"`{next(iter(wrong))}`.*float32"):
        bpl.Circuit("leaky_tanh", 3, 2, dtype="float32", **wrong)


def test_what_is_not_a_prediction_is_refused():
    with pytest.raises(bpl.ValidationError, match=r"`x` .* Batch"):
        trainer().predict(BATCH)


@pytest.mark.parametrize("loss", ["mse", 3, None, ["squared_error"], print])
def test_an_array_tasks_loss_is_checked(loss):
    with pytest.raises(bpl.ValidationError, match="`loss`"):
        bpl.ArrayTask(BATCH, loss)
