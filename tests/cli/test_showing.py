"""Output of help, of `--cfg`, of lists of runs, and of shell completion."""

import os
from pathlib import Path

import pytest
import yaml
from cases import cases
from processes import python

from kanrun.cli.commands import completions
from kanrun.config import EXPERIMENTS, groups_of
from kanrun.errors import UsageError
from kanrun.launch import Source, compose

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_help_of_an_experiment(kanrun, experiment):
    result = kanrun(f"{experiment.name} --help")
    assert not result.err
    assert "--multirun" in result.out
    assert all(example in result.out for example in experiment.examples)
    for group, choices in groups_of(experiment.name):
        assert group in result.out
        assert all(choice in result.out for choice in choices)


@pytest.mark.parametrize("line", ["", "runs", "fit", "runs list", "runs figures", "predict"])
def test_summaries_are_whole_at_80_columns_and_name_no_types_of_python(kanrun, line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = kanrun(f"{line} --help").out
    assert "str>" not in shown
    assert "..." not in shown.replace("[ARGS]...", "") or line not in ("", "runs")
    assert line or kanrun("").out == shown


@pytest.mark.parametrize(
    "words", ["", "target=table", "study=toy_suite", "model=mlp --resolve", "--resolve"]
)
def test_cfg_prints_the_configuration_and_runs_nothing(kanrun, tmp_path, words):
    result = kanrun(f"fit --cfg job {words}", "seed=${n_seeds}")
    assert not result.err
    shown = yaml.safe_load(result.out)
    assert "model" in shown
    assert shown["seed"] == (1 if "--resolve" in words else "${n_seeds}")
    assert not (tmp_path / "outputs").exists()


CHOICES = [
    f"{group}={choice}" for group, some in groups_of("fit") if group != "study" for choice in some
]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_a_group_composes_and_rejects_unknown_keys(choice):
    group, _, _ = choice.partition("=")
    with pytest.raises(UsageError, match="nonsense"):
        compose(Source("fit"), [choice, f"{group}.nonsense=1"]).config(0)


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF))
)
def test_every_file_says_what_it_is(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("study/*/*.yaml")), ids=lambda path: str(path.relative_to(CONF))
)
def test_every_study_composes(path):
    command = path.parent.name.replace("_", "-")
    of_a_folder = ["target.path=data"] if "target.path=FOLDER" in path.read_text() else []
    assert compose(Source(command), [f"study={path.stem}", *of_a_folder]).config(0)


@pytest.mark.parametrize(
    "words, word, found",
    cases("""
        [] | tar | ['target.', 'target=']
        [] | model.deg | ['model.degree=', 'model.degree=3']
        [] | +model.mult | ['+model.multiplication_nodes=', '+model.multiplication_nodes=[]']
        [] | precision= | ['precision=float32', 'precision=float64']
        [] | model.base=si | ['model.base=sigmoid', 'model.base=silu', 'model.base=sin']
        [] | model.freeze_scales=t | ['model.freeze_scales=true']
        ['model=mlp'] | model.activation=re | ['model.activation=relu']
        ['target=feynman'] | target.id=I.6 | ['target.id=I.6.2', 'target.id=I.6.2b']
        ['target.formula=exp(x0)*(', 'target=expression'] | target.form | ['target.formula=']
        [] | stu | ['study=', 'study=toy_suite', 'study=unseen_functions']
        [] | sch | ['scheduler=']
        [] | hydra | []
        ['model=auto'] | model.fo | ['model.folds=', 'model.folds=5']
        ['target.path=a.csv'] | model.fo | ['model.folds=', 'model.folds=5']
    """),
)
def test_completion_offers_keys_choices_and_values(words, word, found):
    completed = completions("fit", words, word)
    assert [name for name in completed if "formula=exp" not in name] == found


@pytest.mark.parametrize(
    "word, found",
    cases("""
        target.path=ho | ['target.path=houses.csv']
        target.outputs=pr | ['target.outputs=price']
        target.inputs=[rooms,a | ['target.inputs=[rooms,area']
        target.weight_column=a | ['target.weight_column=area']
        target.split=time:p | ['target.split=time:price']
        target.monotone={rooms: increasing,p | ['target.monotone={rooms: increasing,price']
    """),
)
def test_completion_offers_files_and_the_columns_of_the_table(tmp_path, monkeypatch, word, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "houses.csv").write_text("rooms,area,price\n1,2,3\n")
    words = ["target=table"] + ["target.path=houses.csv"] * ("target.path" not in word)
    assert completions("fit", words, word) == found


@pytest.mark.parametrize(
    "shell, typed, found",
    cases(r"""
        bash | kanrun fit target = be | bessel_j0
        bash | kanrun fit model = mlp model.act | model.activation=
        bash | kanrun fit --mul | --multirun
        bash | kanrun fit target.path = flats.csv target.outputs = ren | rent\ \(EUR\)
        bash | kanrun fit target.path = flats.csv 'target.outputs=ren | rent (EUR)
        zsh | kanrun fit target=be | target=bessel_j0
        fish | kanrun fit target=be | target=b
    """),
)
def test_completion_works_in_each_shell(shell, typed, found, tmp_path):
    """Bash gets words split at equals signs, and reads names with blanks as they are written."""
    (tmp_path / "flats.csv").write_text("rooms,rent (EUR)\n1,2\n")
    words = {
        "COMP_WORDS": typed.replace(" ", "\n"),
        "COMP_CWORD": str(typed.count(" ")),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_KANRUN_COMPLETE": f"complete_{shell}",
    }
    code = "from kanrun.cli.app import main; raise SystemExit(main([]))"
    done = python("-c", code, env=os.environ | words, cwd=tmp_path)
    assert found in done.stdout
    assert not done.stderr
