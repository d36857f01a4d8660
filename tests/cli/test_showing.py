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


@pytest.mark.parametrize(
    "words", [["--help"], ["fit", "--help"], ["runs", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom kanrun.cli.app import main\nmain(sys.argv[1:])\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'pandas', 'numpy', 'matplotlib', 'scipy', "
        "'sympy', 'rich', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = python("-c", code, *words)
    assert done.stderr.strip() == "[]"
    assert done.stdout


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_help_of_an_experiment(kanrun, experiment):
    result = kanrun(f"{experiment.name} --help")
    assert not result.err
    assert "--multirun" in result.out
    assert all(example in result.out for example in experiment.examples)
    for group, choices in groups_of(experiment.name):
        assert group in result.out
        assert all(choice in result.out for choice in choices)


@pytest.mark.parametrize("line", ["", "runs"])
def test_summaries_are_whole_at_80_columns(line):
    shown = python("-m", "kanrun", *line.split(), "--help", env={**os.environ, "COLUMNS": "80"})
    assert "..." not in shown.stdout.replace("[ARGS]...", "")
    assert "First steps: kanrun fit" in shown.stdout or line


def test_help_shows_no_types_of_python(kanrun):
    for line in ("fit", "runs tag", "runs figures", "predict"):
        assert "str>" not in kanrun(f"{line} --help").out


@pytest.mark.parametrize("words", ["", "target=table", "study=toy_suite", "model=mlp --resolve"])
def test_cfg_prints_the_configuration_and_runs_nothing(kanrun, tmp_path, words):
    result = kanrun(f"fit --cfg job {words}")
    assert not result.err
    assert "model" in yaml.safe_load(result.out)
    assert not (tmp_path / "outputs").exists()


def test_cfg_shows_arguments_and_interpolations(kanrun):
    line = "fit --cfg job target.formula=exp(-x0)*sin(3*x1) seed=${n_seeds}"
    shown = yaml.safe_load(kanrun(line).out)
    assert shown["target"]["formula"] == "exp(-x0)*sin(3*x1)"
    assert shown["seed"] == "${n_seeds}"
    assert yaml.safe_load(kanrun(line, "--resolve").out)["seed"] == 1


GROUPS = [(group, choices) for group, choices in groups_of("fit") if group != "study"]


@pytest.mark.parametrize("group, choices", GROUPS)
def test_every_choice_of_a_group_rejects_unknown_keys(group, choices):
    """Each choice composes, and rejects a key that it does not have."""
    for choice in choices:
        with pytest.raises(UsageError, match="nonsense"):
            compose(Source("fit"), [f"{group}={choice}", f"{group}.nonsense=1"]).config(0)


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


def test_kanrun_without_arguments_prints_help(kanrun):
    for line, shown in (("", "extend-grid"), ("runs", "resume")):
        result = kanrun(line)
        assert not result.err
        assert shown in result.out


def test_runs_list_and_show(kanrun):
    empty = kanrun("runs list")
    assert not empty.out
    assert kanrun("runs list --json").out.strip() == "[]"
    kanrun("fit -q model.degree=2")
    kanrun("fit -q model.degree=7", code=1)
    kanrun("fit -q -m seed=0,1")
    names = [entry["name"] for entry in kanrun("runs list --json").json]
    assert names == ["fit/v0003", "fit/v0002", "fit/v0001"]  # the points of a sweep are one run
    assert kanrun("runs list").out.splitlines()[2].split()[0:6:5] == ["fit/v0002", "FAILED"]
    shown = kanrun("runs show fit/v0001")
    assert not shown.err
    assert "model.degree=2" in shown.out
    assert "DOES NOT HOLD  the error is small: measured 0.5, bound: at most 0.1" in shown.out
    assert kanrun("runs show fit/v0002 --json").json["status"] == "FAILED"
    points = kanrun("runs show --json").json["points"]
    assert points == ["fit/v0003/0", "fit/v0003/1"]
    shown = kanrun("runs show").out.splitlines()
    assert [line.split()[:2] for line in shown if line[:2] in ("0 ", "1 ")] == [
        ["0", "*"],
        ["1", "COMPLETED"],
    ]


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
        [] | sch | []
        [] | hydra | []
        ['model=auto'] | model.fo | ['model.folds=', 'model.folds=5']
        ['target.path=a.csv'] | model.fo | ['model.folds=', 'model.folds=5']
    """),
)
def test_completion_offers_keys_choices_and_values(words, word, found):
    completed = completions("fit", words, word)
    assert [name for name in completed if "formula=exp" not in name] == found


def test_completion_offers_files_for_a_path(tmp_path):
    (tmp_path / "houses.csv").write_text("")
    assert completions("fit", ["target=table"], f"target.path={tmp_path}/ho") == [
        f"target.path={tmp_path}/houses.csv"
    ]


def test_completion_offers_the_columns_of_the_table(tmp_path):
    (tmp_path / "houses.csv").write_text("rooms,area,price\n1,2,3\n")
    words = ["target=table", f"target.path={tmp_path}/houses.csv"]
    assert completions("fit", words, "target.outputs=pr") == ["target.outputs=price"]
    assert completions("fit", words, "target.inputs=[rooms,a") == ["target.inputs=[rooms,area"]
    assert completions("fit", words, "target.weight_column=a") == ["target.weight_column=area"]
    assert completions("fit", words, "target.split=t")[1:] == [
        f"target.split=time:{n}" for n in ("area", "price", "rooms")
    ]
    assert completions("fit", words, "target.monotone={rooms: increasing,p") == [
        "target.monotone={rooms: increasing,price"
    ]


@pytest.mark.parametrize(
    "shell, variables, found",
    cases(r"""
        bash | {'COMP_WORDS': 'kanrun\nfit\ntarget\n=\nbe', 'COMP_CWORD': '4'} | bessel_j0
        bash | {'COMP_WORDS': 'kanrun\nfit\nmodel\n=\nmlp\nmodel.act', 'COMP_CWORD': '5'} | model.activation=
        bash | {'COMP_WORDS': 'kanrun\nfit\n--mul', 'COMP_CWORD': '2'} | --multirun
        zsh | {'_TYPER_COMPLETE_ARGS': 'kanrun fit target=be'} | target=bessel_j0
        fish | {'_TYPER_COMPLETE_ARGS': 'kanrun fit target=be', '_TYPER_COMPLETE_FISH_ACTION': 'get-args'} | target=b
    """),  # noqa: E501
)
def test_completion_works_in_each_shell(shell, variables, found):
    environment = {**os.environ, **variables, "_KANRUN_COMPLETE": f"complete_{shell}"}
    code = "from kanrun.cli.app import main; raise SystemExit(main([]))"
    done = python("-c", code, env=environment)
    assert found in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    "typed, found",
    [("target.outputs\n=\nren", r"rent\ \(EUR\)"), ("'target.outputs=ren", "rent (EUR)")],
)
def test_bash_gets_columns_with_blanks_as_it_would_read_them(tmp_path, typed, found):
    (tmp_path / "flats.csv").write_text("rooms,rent (EUR)\n1,2\n")
    words = f"kanrun\nfit\ntarget.path\n=\n{tmp_path}/flats.csv\n{typed}"
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count("\n"))}
    environment = {**os.environ, **typed, "_KANRUN_COMPLETE": "complete_bash"}
    done = python("-c", "from kanrun.cli.app import main; main([])", env=environment)
    assert done.stdout.strip().removeprefix("target.outputs=") == found
