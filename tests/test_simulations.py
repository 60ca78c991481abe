"""Each simulation's quick size, end to end, through the command line; what a run leaves behind."""

import contextlib
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import bpl_neuro as bpl
from bpl_neuro import experiment
from bpl_neuro.cli import app
from bpl_neuro.rules import RULES

runner = CliRunner()
TINY = ["--set", "batches=3", "--set", "learning_epochs=1", "--set", "batches_per_epoch=2", "--set", "units=5"]


def invoke(*arguments):
    result = runner.invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def check_run(folder):
    summary = json.loads((folder / "summary.json").read_text())
    config = tomllib.loads((folder / "config.toml").read_text())
    assert summary and config["environment"]["numpy"]
    for figure in (folder / "figures").iterdir():
        assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 5000
    with xr.open_zarr(folder / "recording.zarr") as record:
        assert record.sizes
        record.load()
    return summary, config, record


@pytest.mark.parametrize("model", ["linear", "leaky_tanh", "lstm"])
def test_target_reaching_leaves_everything_behind(tmp_path, model):
    out = tmp_path / "run"
    result = invoke(
        "run", "target-reaching", "--quick", "--seed", "7", *TINY, "--set", f"model={model}", "--set", "lams=[0, 1]",
        "--set", "steps=4", "--out", str(out),
    )  # fmt: skip
    summary, config, record = check_run(out)
    assert config["config"]["seed"] == 7 and config["config"]["lams"] == [0, 1]
    assert {f"alignment.lam=1.step={t}.mean" for t in (1, 2, 3)} <= summary.keys()
    assert record["alignment"].dims == ("lam", "seed", "step")
    assert "figures" in result.output


def test_row_mnist_on_the_real_data(tmp_path, mnist_folder):
    out = tmp_path / "run"
    invoke(
        "run", "row-mnist", "--quick", "--set", "train_size=100", "--set", "units=4",
        "--set", f"data={json.dumps(str(mnist_folder))}", "--out", str(out),
    )  # fmt: skip
    summary, _, record = check_run(out)
    assert 0 <= summary["test_accuracy"] <= 1
    assert record["batch_loss"].attrs["units"] == "nat"
    assert (out / "checkpoint" / "last.npz").is_file()


def test_the_same_seed_gives_the_same_bits(tmp_path, undrawn):
    summaries = []
    for k in range(2):
        invoke("run", "target-reaching", "--quick", *TINY, "--out", str(tmp_path / str(k)))
        summaries.append((tmp_path / str(k) / "summary.json").read_bytes())
    assert summaries[0] == summaries[1]
    invoke("run", "target-reaching", "--quick", *TINY, "--seed", "1", "--out", str(tmp_path / "other"))
    assert (tmp_path / "other" / "summary.json").read_bytes() != summaries[0]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(bpl.ValidationError, match="not empty"):
        invoke("run", "target-reaching", "--quick", *TINY, "--out", str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "target-raeching"], "row-mnist, row-mnist-rules, rules, single-trials, subspaces"),
        (["run", "../../etc"], "there is no simulation"),
        (["run", "target-reaching", "--set", "lamz=1"], "no setting 'lamz'"),
        (["run", "target-reaching", "--set", "lams"], "key=value"),
        (["run", "target-reaching", "--set", "batches=many"], "`batches`"),
        (["run", "target-reaching", "--size", "huge"], "`size`"),
        (["run", "target-reaching", "--quick", "--set", "lams=[1.3]"], "`lam` must lie in"),
        (["run", "target-reaching", "--quick", "--set", "model=lsmt"], "no model 'lsmt'"),
        (["run", "target-reaching", "--quick", "--jobs", "2"], "--jobs: target-reaching is one job"),
        (["run", "row-mnist-rules", "--quick", "--jobs", "0"], "`jobs`"),
    ],
)
def test_a_wrong_command_line_says_what_would_be_right(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(bpl.BplError, match=message):
        invoke(*arguments)


def test_list_and_doctor():
    listed = invoke("list").output
    for name in [*experiment.available_simulations(), *bpl.available_models()]:
        assert name in listed
    assert invoke("list", "--names").output.split() == list(experiment.available_simulations())
    assert "finite differences" in invoke("doctor").output


def test_errors_on_the_command_line_are_one_line(capsys, monkeypatch):
    from bpl_neuro import cli

    monkeypatch.setattr("sys.argv", ["bpl-neuro", "run", "nonsense"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_delayed_reach_leaves_everything_behind(tmp_path):
    out = tmp_path / "run"
    settings = ["batches=4", "fork_at=2", "exc=6", "inh=3", "expansion=8", "seeds=2"]
    invoke("run", "delayed-reach", "--quick", *(f"--set={pair}" for pair in settings), "--out", str(out))
    summary, _, record = check_run(out)
    assert summary["signs_hold"] and summary["sparsity_holds"]
    assert summary["baseline"] == pytest.approx(15)
    assert record["loss"].dims == ("kind", "seed", "batch")
    loss = record["loss"].values
    assert (loss[:, :, :2] == loss[:1, :, :2]).all()  # the forks share what came before
    with pytest.raises(bpl.ValidationError, match=r"intervention is one of.*lesion"):
        invoke("run", "delayed-reach", "--quick", "--set", 'interventions=["nap"]', "--out", str(tmp_path / "x"))


def test_delayed_reach_with_every_kind_of_intervention_and_a_recording(tmp_path):
    out = tmp_path / "run"
    kinds = ["clamp:exc:0,1:0.2", "silence:inh->exc", "task:longest_delay=200*ms"]
    settings = ["batches=4", "fork_at=2", "exc=6", "inh=3", "expansion=8", f"interventions={json.dumps(kinds)}"]
    settings += ['record=["loss", "g"]', 'record_options={"every": 2, "trials": [0], "steps": [1, 5]}']
    invoke("run", "delayed-reach", "--quick", *(f"--set={pair}" for pair in settings), "--out", str(out))
    _, _, record = check_run(out)
    assert record["kind"].values.tolist() == ["intact", *kinds]
    with xr.open_zarr(out / "recording.zarr" / "seed=0,intact") as intact:
        assert intact["batch"].values.tolist() == [3] and intact["g"].dims == ("batch", "step", "trial", "unit")
        np.testing.assert_allclose(intact["loss"], record["loss"].sel(kind="intact", batch=[3]).values[0])
    for wrong in ("task:units=3", "clamp:exc:99:0"):
        with pytest.raises(bpl.ValidationError):
            invoke(
                "run", "delayed-reach", "--quick", "--set", f'interventions=["{wrong}"]', "--out", str(tmp_path / "x")
            )


def test_delayed_reach_steps_like_its_model(tmp_path):
    text = bpl.Model.load("cerebellar").to_toml()
    assert 'dt = "5*ms"' in text
    (tmp_path / "finer.toml").write_text(text.replace('dt = "5*ms"', 'dt = "2.5*ms"'), encoding="utf-8")
    settings = ["batches=2", "fork_at=1", "exc=6", "inh=3", "expansion=8", f"model={tmp_path / 'finer.toml'}"]
    out = tmp_path / "run"
    invoke("run", "delayed-reach", "--quick", *(f"--set={pair}" for pair in settings), "--out", str(out))
    summary, _, _ = check_run(out)
    assert summary["baseline"] == pytest.approx(30)  # twice the steps


SMALL_ASSOCIATION = ["batches=16", "fork_at=[2, 13]", "exc=6", "inh=3", "motor=4", "batch_size=4"]


def test_association_reach_leaves_everything_behind(tmp_path):
    out = tmp_path / "run"
    settings = [f"--set={pair}" for pair in [*SMALL_ASSOCIATION, "eta=3e-2"]]
    invoke("run", "association-reach", "--quick", *settings, "--out", str(out))
    summary, _, record = check_run(out)
    assert summary["baseline"] == 5
    forks = ["lesion@2", "scramble@2", "lesion@13", "scramble@13"]
    assert record["kind"].values.tolist() == ["bptt", "eprop", "intact", *forks]
    loss = record["loss"]
    for fork in forks:  # what came before is shared; what was done shows from the second batch after it on
        same = (loss.sel(kind=fork) == loss.sel(kind="intact")).all("seed").values
        at = int(fork.split("@")[1])
        assert same[: at + 1].all() and not same[at + 1 :].any()
        since = loss.sel(batch=slice(at + 1, None)).mean("batch")
        difference = since.sel(kind=fork) - since.sel(kind="intact")
        assert summary[f"{fork}.difference.median"] == pytest.approx(float(difference.median()))
        assert summary[f"{fork}.worse"] == int((difference > 0).sum())


@pytest.mark.stage
def test_association_reach_with_processes_and_after_an_interruption(tmp_path, monkeypatch, undrawn):
    """Shared out, killed and resumed: the same figures. A run that is over is not run again."""
    settings = {"batches": 6, "fork_at": [2], "exc": 6, "inh": 3, "motor": 4, "batch_size": 4, "checkpoint_every": 1}
    whole = experiment.run_simulation("association-reach", size="quick", settings=settings, out=tmp_path / "whole")
    shared = {**settings, "jobs": 2}
    experiment.run_simulation("association-reach", size="quick", settings=shared, out=tmp_path / "shared")
    module, fits = experiment.load_simulation("association-reach"), []
    fit = experiment.RunFolder.fit

    def killed(folder, trainer, task, key, **keywords):
        fits.append(key)
        if len(fits) == 4:
            raise KeyboardInterrupt
        return fit(folder, trainer, task, key, **keywords)

    monkeypatch.setattr(experiment.RunFolder, "fit", killed)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt) if not resume else contextlib.nullcontext():
            experiment.run_simulation(
                "association-reach", size="quick", settings=settings, out=tmp_path / "killed", resume=resume
            )
    expected = (whole.path / "summary.json").read_bytes()
    for name in ("shared", "killed"):
        assert (tmp_path / name / "summary.json").read_bytes() == expected
    assert module.spikes(np.array([5.0] * 10 + [0.5] * 10 + [4, 0.5, 3]), 5.0) == 2


def test_association_reach_counts_a_divergence_as_a_failure(tmp_path):
    """At such a rate the circuit blows up; the run goes on, and reports it."""
    settings = [f"--set={pair}" for pair in [*SMALL_ASSOCIATION, "eta=1e30", "seeds=1"]]
    invoke("run", "association-reach", "--quick", *settings, "--out", str(tmp_path / "run"))
    summary, _, record = check_run(tmp_path / "run")
    for kind in record["kind"].values:
        assert summary[f"{kind}.diverged"] == 1 and not summary[f"{kind}.solved"], kind
    assert not summary["claim.intact"] and not summary["claim.lesion"]
    assert summary["lesion@2.difference.median"] == 0


@pytest.mark.parametrize("setting", ["fork_at=[150, 40]", "fork_at=[0]", "fork_at=[30]", 'interventions=["nap"]'])
def test_association_reach_refuses_forks_that_cannot_be(tmp_path, setting):
    with pytest.raises(bpl.ValidationError, match=r"`fork_at` must be batches in order|intervention is one of"):
        invoke("run", "association-reach", "--quick", "--set", setting, "--out", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_copy_repeat_leaves_everything_behind(tmp_path):
    out = tmp_path / "run"
    invoke("run", "copy-repeat", "--quick", "--set", "batches=12", "--set", "threshold=1.1", "--out", str(out))
    summary, _, record = check_run(out)
    assert record["steps"].dims == ("lam", "seed", "batch")
    assert summary["lam=1.solved.median"] == record["solved"].sel(lam=1).isel(batch=-1).median() > 1


def test_single_trials_leave_everything_behind(tmp_path):
    out = tmp_path / "run"
    invoke("run", "single-trials", "--quick", "--set", "trials=20", "--set", "seeds=2", "--out", str(out))
    summary, _, record = check_run(out)
    assert record["loss"].shape == (5, 2, 20) and np.isfinite(record["loss"]).all()
    last = record["loss"].isel(trial=slice(-2, None)).mean("trial").sel(rule="RTRL")
    assert summary["RTRL.loss.median"] == pytest.approx(float(last.median()))
    first = record["loss"].isel(trial=0)
    assert np.ptp(first.values, axis=0).max() < 1e-12  # every rule begins with the same circuit and the same trial


def test_causality_finds_every_rule_online(tmp_path):
    invoke(
        "run", "causality", "--quick", "--set", "steps=8", "--set", "changed_after=4", "--out", str(tmp_path / "run")
    )
    summary, _, _ = check_run(tmp_path / "run")
    assert summary["claim.online"] is True
    assert summary["BP(λ), full trace.psi.difference_before"] == 0 < summary["BP(λ), full trace.psi.moved_before"]


def test_halving_dt_is_of_first_order(tmp_path):
    invoke("run", "halving-dt", "--quick", "--out", str(tmp_path / "run"))
    summary, _, _ = check_run(tmp_path / "run")
    assert summary["claim.first_order.psi"] and summary["claim.first_order.theta"]
    assert summary["theta.dt=4.change"] > summary["theta.dt=2.change"]


def test_theorem_1_holds(tmp_path):
    invoke("run", "theorem1", "--quick", "--set", 'models=["linear", "adapting"]', "--out", str(tmp_path / "run"))
    summary, _, _ = check_run(tmp_path / "run")
    assert summary["claim.slope_one"] and summary["claim.equality"] and summary["linear.lam=0.difference"] < 1e-10


def test_every_rule_on_target_reaching(tmp_path):
    out = tmp_path / "run"
    settings = ["batches=4", "frozen_batches=4", "units=5", "steps=6", f"rules={json.dumps(list(RULES))}"]
    result = invoke("run", "rules", "--quick", *(f"--set={pair}" for pair in settings), "--out", str(out))
    summary, _, record = check_run(out)
    assert record["rule"].values.tolist() == list(RULES)
    assert summary["bptt.cosine.median"] == pytest.approx(1) == summary["rtrl.norm_ratio.median"]
    assert all(name in result.output for name in RULES)


def test_alignment_and_bias_leave_everything_behind(tmp_path):
    settings = ["time_steps=60", "fits=5", "lengths=[4, 6]"]
    invoke("run", "alignment", "--quick", *(f"--set={pair}" for pair in settings), "--out", str(tmp_path / "a"))
    summary, _, record = check_run(tmp_path / "a")
    assert record.sizes["length"] == 2 and summary["T=4.optimum"] == pytest.approx(summary["T=4.class=linear"])
    invoke("run", "bias-variance", "--quick", "--set", "batches=5", "--out", str(tmp_path / "b"))
    summary, _, record = check_run(tmp_path / "b")
    assert float(record["bias2"].sel(noise=0.3, gamma=1, lam=1)) == summary["noise=0.3.gamma=1.lam=1.bias2"] > 0


def test_subspaces_leave_everything_behind(tmp_path):
    settings = ["batches=5", "dimensions=[1, 6]", "units=6"]
    invoke("run", "subspaces", "--quick", *(f"--set={pair}" for pair in settings), "--out", str(tmp_path / "run"))
    summary, _, record = check_run(tmp_path / "run")
    # In all dimensions the reduced trace is the exact one, and the subspace no longer matters.
    assert summary["d=6.random"] == pytest.approx(summary["d=6.random, exact trace"])
    assert summary["d=6.random.optimum"] == pytest.approx(summary["d=6.principal.optimum"])
    assert summary["d=6.reduced.numbers"] == summary["d=6.full.numbers"]
    assert record["cosine"].dims == ("d", "seed", "kind")


def test_row_mnist_with_another_rule(tmp_path, mnist_folder):
    invoke(
        "run", "row-mnist", "--quick", "--set", "train_size=100", "--set", "units=4", "--set", "rule=nstep_sg",
        "--set", f"data={json.dumps(str(mnist_folder))}", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    check_run(tmp_path / "run")


def page(name):
    root = Path(bpl.__file__).parents[1]
    if not (root / "README.md").is_file():
        pytest.skip("not in a source tree")
    return (root / name).read_text(encoding="utf-8")


def run_examples(name, names=None, shorter=()):
    """The Python of a page, block after block, with some of its texts replaced by cheaper ones."""
    text = "\n".join(re.findall(r"```python\n(.*?)```", page(name), re.DOTALL))
    for long, short in shorter:
        assert long in text
        text = text.replace(long, short)
    names = names or {}
    exec(compile(text, name, "exec"), names)
    return names


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shorter = [("epochs=6", "epochs=2"), ("targets=4", "targets=4, batches_per_epoch=5")]
    names = run_examples("README.md", shorter=shorter)
    assert (tmp_path / "lesion.png").stat().st_size > 5000
    assert len(names["losses"]["lesioned"]) == 10 and names["state"].batches == 5


def test_the_model_and_the_trials_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (model,) = re.findall(r"```toml\n(.*?)```", page("docs/models.md"), re.DOTALL)
    (tmp_path / "divisive.toml").write_text(model, encoding="utf-8")
    assert "differ by" in invoke("check", "divisive.toml").output
    invoke("run", "target-reaching", "--quick", *TINY, "--set", "model=divisive.toml", "--out", "out")
    check_run(tmp_path / "out")
    task = run_examples("docs/models.md", shorter=[("epochs=50", "epochs=2")])["task"]
    assert {split: len(rows) for split, rows in task.rows.items()} == {"train": 120, "validation": 40, "test": 40}


def test_the_interventions_of_the_documentation_run():
    circuit = bpl.Circuit("cerebellar", {"exc": 6, "inh": 3}, 5, dtype="float32")
    readout = bpl.Readout(circuit, 2, population="exc")
    trainer = bpl.Trainer(circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit, expansion=8)))
    names = run_examples("docs/biology.md", {"trainer": trainer})
    assert names["clamped"].state.clamped and names["state"].frozen == {"theta"}


def test_the_recording_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_examples("docs/recording.md")
    assert names["recording"]["batch"].values.tolist() == [1, 6, 11, 16, 21, 26, 31, 36]
    assert (tmp_path / "synapse.png").stat().st_size > 5000
