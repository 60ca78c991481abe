"""Copy–repeat with several rules: what its jobs leave, merging, the table, and going on after an interruption."""

import importlib.util
import json
from pathlib import Path

import pytest

import bpl_neuro as bpl
from bpl_neuro.benchmark import collect_curricula, curriculum_table, merge_curricula
from bpl_neuro.experiment import RunFolder, load_simulation, resolve_config

ROOT = Path(bpl.__file__).parents[1]
MOVES = [[3, 7, 2, 1], [8, 9, 2, 2], [20, 12, 3, 2]]


def record(batches=30, moves=MOVES, *, label="bptt", seed=0, place=0, stopped=None):
    return {
        "label": label, "title": label.upper(), "place": place, "seed": seed, "batches": batches, "stopped": stopped,
        "ms_per_batch": 1.0, "advances": [move for move in moves if move[0] <= batches],
    }  # fmt: skip


def results(*records, **settings):
    return {"benchmark": "copy_repeat", "settings": {"units": 4} | settings, "runs": list(records)}


def test_the_longer_training_stays_and_others_are_added():
    short, long = record(10), record(30)
    other = record(5, label="eprop", place=1)
    for pair in ((short, long), (long, short)):
        merged = merge_curricula(results(pair[0]), results(other, pair[1]))
        assert merged["runs"] == [long, other]
    with pytest.raises(bpl.ValidationError, match="bptt, seed 0: two trainings of it differ"):
        merge_curricula(results(long), results(record(10, [[4, 7, 2, 1]])))
    with pytest.raises(bpl.ValidationError, match="settings"):
        merge_curricula(results(long), results(long, units=5))


def test_the_table_says_steps_and_pattern_both():
    row = curriculum_table(results(record(stopped="30 batches"), record(2, label="eprop"))).rows
    assert row[0][:5] == ["BPTT", "0", "12", "3 × 2", "20"]
    assert row[0][5:] == ["20", "–", "–", "30", "30 batches"]
    assert row[1][2:] == ["5", "1 × 1", "0", "–", "–", "–", "2", "still going on"]


def small(tmp_path, name="run", **settings):
    module = load_simulation("copy-repeat-rules")
    config = resolve_config(module.Config, "quick", settings)
    return module, config, RunFolder(tmp_path / name, "copy-repeat-rules", config, resume=(tmp_path / name).exists())


def test_a_job_that_was_interrupted_goes_on_to_the_same_record(tmp_path, monkeypatch):
    module, config, whole = small(tmp_path, "whole")
    module.train(config, whole, "compatible-1", 0)
    module, config, cut = small(tmp_path, "cut")
    fit, times = RunFolder.fit, []

    def killed(*arguments, **keywords):
        times.append(1)
        if len(times) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            module.train(config, cut, "compatible-1", 0)
    assert module.read(config, cut, "compatible-1", 0)["stopped"] is None
    module.train(config, cut, "compatible-1", 0)
    first, second = (module.read(config, folder, "compatible-1", 0) for folder in (whole, cut))
    assert first["stopped"] == "60 batches" and first["advances"]
    assert first | {"ms_per_batch": 0} == second | {"ms_per_batch": 0}


def test_it_stops_where_it_stands_still(tmp_path):
    module, config, folder = small(tmp_path, patience=20, threshold=1e-6)
    module.train(config, folder, "bptt", 0)
    found = module.read(config, folder, "bptt", 0)
    assert found["batches"] == 20 and found["stopped"] == "20 batches without advance" and not found["advances"]


def test_results_go_into_the_documentation(tmp_path):
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    make_results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_results)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "run" / "jobs").mkdir(parents=True)
    content = record() | {"benchmark": "copy_repeat", "settings": {"units": 4}}
    path = tmp_path / "run" / "jobs" / "bptt,seed=0.json"
    path.write_text(json.dumps(content))
    taken = make_results.take_in(tmp_path / "run", tmp_path / "docs")
    assert json.loads(taken.read_text()) == collect_curricula([path]) == results(record())
    page = tmp_path / "docs" / "results.md"
    page.write_text("a\n<!-- tables of copy_repeat -->\n<!-- end of copy_repeat -->\nb\n")
    assert "| BPTT | 0 | 12 | 3 × 2 |" in make_results.page_with_tables(tmp_path / "docs")


def test_an_unknown_label_is_named(tmp_path):
    module, config, folder = small(tmp_path, labels=["bptt", "nothing"])
    with pytest.raises(bpl.ValidationError, match="`labels` has 'nothing'; known: bptt"):
        module.run(config, folder)
