"""`kanrun bench` at a small size: tables, claims, figures, and libraries that fail."""

import jaxtyping
import numpy as np
import pandas
import pytest
import torch
from cases import cases, refuses
from doors import check_config, run_config, typed
from kanrun.experiments import bench
from kanrun.experiments.bench import timing

SMALL = (
    "rounds=2 threads=1 case_seconds=5 compiled=false layers=[[40,2,3,5],[30,3,64,5],[50,2,2,1000]]"
)
LAYER = "part=layers layers=[[40,2,3,5]]"


def settings(*lines):
    return typed("bench", SMALL, *lines)


def run(folder, *lines):
    return run_config(settings(*lines), folder)


def broken(case, dtype):
    raise ArithmeticError(f"no {dtype} for {case.name}")


def test_layers_are_measured_and_peers_that_break_or_are_absent_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(timing.LAYERS, "pykan", broken)
    monkeypatch.setitem(timing.MODULES, "inkan", "a_module_that_nobody_has")
    done = run(tmp_path, "part=layers libraries=[pykan,inkan]")
    table = done.table("layers").set_index("competitor")
    assert (table.loc[["kanrun", "MLP"], "seconds"] > 0).all()
    failed = {"pykan": "failed: ArithmeticError", "inkan": "not installed"}
    assert table["status"].to_dict() == {"kanrun": "ok", "MLP": "ok"} | failed
    # Nothing is claimed about libraries that were not measured.
    assert len(done.manifest.claims) == 2
    assert all("MLP" in claim.sentence for claim in done.manifest.claims)


def layer_table(intervals=5, outputs=64, **ratios):
    """Return a table of times relative to the fastest, by competitor."""
    sizes = {"case": "c", "status": "ok", "intervals": intervals, "outputs": outputs}
    table = pandas.DataFrame({"competitor": [*ratios], "ratio": [*ratios.values()], **sizes})
    table["competitor"] = table["competitor"].str.replace("_", " ")
    return table.assign(ratio_least=table["ratio"], ratio_most=table["ratio"])


def test_claims_take_the_faster_of_ours_and_of_the_mlps():
    mlps = {"MLP": 0.9, "MLP_compiled": 0.6}
    table = layer_table(kanrun=1.5, kanrun_compiled=1.0, **mlps, one=1.2, one_compiled=1.1)
    peer, mlp = timing.layer_claims(table)
    assert peer.sentence == "c: time of kanrun compiled over the fastest other KAN's"
    assert peer.measured == pytest.approx(1 / 1.1)
    assert mlp.measured == pytest.approx(1 / 0.6)
    assert not mlp.holds
    peer, _ = timing.layer_claims(layer_table(kanrun=1.0, MLP=0.9, one=0.8))
    assert peer.sentence.startswith("c: time of kanrun over ")
    assert not peer.holds


@pytest.mark.parametrize(
    "intervals, outputs, ratio, holds",
    cases("""
        5 | 64 | 1.4999 | [True]
        5 | 64 | 1.5001 | [False]
        1000 | 8 | 0.0999 | [True]
        1000 | 8 | 0.1001 | [False]
        5 | 8 | 1.0 | []
    """),
)
def test_layers_are_held_to_an_mlp_of_their_size(intervals, outputs, ratio, holds):
    table = layer_table(intervals, outputs, kanrun=1.0, MLP=1 / ratio)
    assert [claim.holds for claim in timing.layer_claims(table)] == holds


def test_each_command_is_held_to_its_bound():
    table = pandas.DataFrame({"command": ["fit", "--help"], "over_import": [4.6, 0.1]})
    slow_help, fast_fit = timing.startup_claims(table)
    assert [slow_help.holds, fast_fit.holds] == [True, False]


@pytest.mark.parametrize("ours", ["kanrun", "MLP"])
def test_failure_of_our_own_layer_ends_the_benchmark(ours, tmp_path, monkeypatch):
    monkeypatch.setitem(timing.LAYERS, ours, broken)
    with pytest.raises(ArithmeticError):
        list(timing.layers(settings("libraries=[]"), 0))


@pytest.mark.slow
def test_our_layers_are_measured_compiled_too(tmp_path, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # annotation checks cannot be compiled
    table = run(tmp_path, LAYER, "libraries=[] compiled=true").table("layers")
    assert list(table["competitor"]) == ["kanrun", "kanrun compiled", "MLP", "MLP compiled"]
    assert table["ratio"].iloc[:2].min() == 1


@pytest.mark.slow
def test_time_to_accuracy_of_ours_and_of_a_missing_library(tmp_path, monkeypatch):
    monkeypatch.setitem(timing.MODULES, "pykan", "a_module_that_nobody_has")
    before = torch.get_rng_state()
    line = "part=time_to_accuracy training_seconds=2 errors=[0.1] intervals=[3]"
    accuracy = run(tmp_path, line).table("accuracy").set_index("competitor")
    assert np.isfinite(accuracy.loc["kanrun LM", "seconds"])
    assert accuracy.loc["pykan LBFGS", "status"] == "not installed"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_startup_times_are_recorded_relative_to_importing_torch(tmp_path, monkeypatch):
    quick = {name: timing.COMMANDS[name] for name in ("--help", "fit solver.steps=abc")}
    monkeypatch.setattr(timing, "COMMANDS", quick)
    done = run(tmp_path, "part=startup rounds=1")
    table = done.table("startup")
    assert list(table["command"]) == ["import torch", *quick]
    ratios = table["cpu_seconds"] / table["cpu_seconds"][0]
    np.testing.assert_allclose(table["over_import"], ratios)
    assert [claim.measured for claim in done.manifest.claims] == list(ratios[1:])


@pytest.mark.parametrize("sizes", [(1024, 64, 64, 5), (4096, 8, 8, 1000), (256, 784, 64, 5)])
def test_mlp_has_as_many_parameters_as_our_layer_within_a_percent(sizes):
    case = timing.LayerCase(*sizes)
    ours, mlp = (
        sum(parameter.numel() for parameter in make(case, torch.float32).parameters())
        for make in (timing.our_layer, timing.LAYERS["MLP"])
    )
    assert ours == case.parameters
    assert mlp == pytest.approx(ours, rel=0.01)


def accuracy(ours, theirs, status="ok"):
    times = {"kanrun LM": 2 * ours, "kanrun LM, one start": ours, "pykan LBFGS": theirs}
    columns = {"seconds": [*times.values()], "status": ["ok", "ok", status], "trained": 30.0}
    table = pandas.DataFrame({"competitor": [*times], **columns, "error": 8.2e-5, "best": 1e-4})
    return list(bench.accuracy_claims(table))


def test_claims_on_time_to_accuracy():
    slower, good = accuracy(0.2, 16.0)
    assert (good.holds, good.spread, slower.holds) == (True, None, False)
    assert [good.measured, slower.measured] == pytest.approx([80, 40])
    for never in accuracy(1.0, np.nan):
        assert not never.holds
        assert str(never.spread).startswith("a lower bound: pykan stopped at 0.0001 after 30 s")
    assert not any(lost.holds for lost in accuracy(np.nan, 20.0))
    assert not accuracy(0.2, np.nan, "not installed")


@pytest.mark.parametrize(
    "line, said",
    cases("""
        part=speed | part=speed
        layers=[[1,2]] | lists of 4 whole numbers
        n_seeds=2 | n_seeds=2: bench repeats in rounds
        device=auto | device=auto: bench measures only part=layers
        libraries=[pykna] | libraries=[pykna] must be a list of inkan ... did you mean pykan
    """),
)
def test_impossible_settings_are_refused(line, said):
    with refuses(said):
        check_config(settings(line))
