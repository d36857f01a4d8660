"""Invalid overrides and options are refused in one sentence, before a run folder exists."""

from pathlib import Path

import pytest
from cases import cases

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


UNKNOWN_KEYS = cases("""
    model.hiden=[5] | no key model.hiden ... did you mean model.hidden? ... intervals
    targt.path=houses.csv | no key targt.path ... did you mean target.path?
    target.pth=houses.csv | no key target.pth; did you mean target.path? (keys of target
    foo=1 | no key foo (see kanrun keys --command fit)
    learning_rte=1 | no key learning_rte ... did you mean solver.learning_rate?
    +lr=0.1 +n_trains=10 | no key lr (see kanrun keys
    +n_trains=10 | no key n_trains ... did you mean sampling.n_train?
    +sede=1 note=${oc.env:HOME} | no key sede ... did you mean seed?
    +model.degre=4 | no key model.degre ... did you mean model.degree?
    ++model.hiden=[3] | no key model.hiden ... did you mean model.hidden?
    +modle=mlp | no key modle ... did you mean model?
    +group=option | no key group (see kanrun keys
    target@foo=product | no key target@foo
    model={kind:kan,foo:1} | no key model.foo
    +model.width=3 | no key model.width
    model.folds=5 | model.folds is not a setting of model=kan. Write model=auto.
    model=mlp base=silu | model.base is not a setting of model=mlp. Write model=kan.
    ~model.foo | no key model.foo
    ~model.degree | model.degree cannot be removed
    +model.degree=3 | model.degree exists already ... leave out the +
    schema/target=named | schema/target
    ++model._target_=os.getcwd | no key model._target_
""")
UNKNOWN_CHOICES = cases("""
    target=prodct | target=prodct ... did you mean product? ... choices: bessel_j0
    model=cnn | model=cnn is not a choice of model ... bezier, bspline, kan, mlp, polynomial
    model=5 | model=5 ... choose one of auto, bezier
    study=toy_suit | study=toy_suit is not a choice of study ... toy_suite
    model.kind=mlp | model.kind=mlp ... model=NAME
    target=runge target=product | target is given 2 times; give it once
    -m model.degree=2,3 degree=4 | model.degree is given 2 times; give it once
    "'model={kind: kann}'" | model.kind=kann is not one of kan, mlp ... did you mean kan
""")
WRONG_VALUES = cases("""
    model.degree=abc | model.degree=abc must be a whole number from 0 to 20 ... degree of
    model.degree=2.5 | model.degree=2.5 must be a whole number from 0 to 20
    model.degree=-1 | model.degree=-1 must be a whole number from 0 to 20
    model.intervals=true | model.intervals=true must be a whole number at least 1, a non-empty list of whole numbers at least 1 or auto, increasing (intervals
    model.intervals=otto | model.intervals=otto must be a whole number ... did you mean auto?
    model.intervals=[3,3] | model.intervals=[3,3] must be ... increasing
    model.intervals=[0,3] | model.intervals=[0,3] must be ... at least 1
    target.outputs=y target.threshold=1.0 | threshold=1 must be a number above 0 and below 1 (of two
    model=auto 'model.monotone={x: down}' | monotone={x: down} must be a mapping {name: value} with decreasing, increasing
    model=auto model.bounds=[1] | model.bounds=[1] must be a list of 2 numbers or null
    solver=adam solver.learning_rate=1e999 | learning_rate has a number that is not finite, or too large for float64.
    model.update_grid=perhaps | model.update_grid=perhaps must be true or false
    seed=null | seed=null must be a whole number at least 0
    model.hidden=5 | model.hidden=5 must be a list of ... Write it in brackets: model.hidden=[5]
    model.hidden=[a] | model.hidden=[a] must be a list of whole numbers
    sampling=5 | sampling is a group of settings
    -m seed=0,a | seed=a must be a whole number
    figures=[los] | figures=[los] names no figure of this command ... it draws effects
    figures=loss | figures=loss must be a list ... figures=[loss]
    sampling.noise=nan | sampling.noise has a number that is not finite
    target=gaussian_peaks target.centres=[0,nan] | target.centres has a number that is not finite
    target=expression | target.formula must be given
    ~target | target must be given
    target=bundled target.name=diabetes solver.steps=3 | solver.steps is not used by model=auto ... add model=kan
    study=toy_suite target.formula=x0 | target.formula is not a setting of
    target.path=EXAMPLES/pendulums.csv | docs/examples/pendulums.csv'; did you mean pendulum.csv
    target.path=EXAMPLES/pendulum.csv | target.outputs must be given ... of the columns length (m), amplitude
    target.path=EXAMPLES/pendulum.csv 'target.inputs=[length (m)]' 'target.outputs=[length (m)]' | the column 'length (m)' is both in target.inputs and
    model.base=slu | model.base=slu ... did you mean silu?
    target=runge model=bspline control_points=3 | control_points=3 is too few: a B-spline of degree 3
    seed=4294967296 | 4294967295, the largest seed
    seed=4294967295 n_seeds=2 | goes beyond 4294967295, the largest seed
    n_seeds=4000000000 | 4000000000 trainings are more than 100000
    device=mps | device=mps has no float64; add precision=float32
    device=cuda:99 | device=cuda:99 is not there
    tags=[two,'two words'] | 'two words' is not a valid tag
    scheduler="''" | scheduler must be an address
    n_jobs=2 scheduler=tcp://127.0.0.1:1 | n_jobs=2 is for this machine ... give one of them
    scheduler=tcp://127.0.0.1:1 max_cpu_seconds=5 | max_cpu_seconds=5 is not for scheduler=tcp://127.0.0.1:1
    scheduler=tcp://127.0.0.1:1 | no Dask scheduler answers at scheduler=tcp://127.0.0.1:1
    seed=${nope} | seed ... 'nope' not found
    seed=${oc.env:KANRUN_TEST_NOT_SET} | seed ... KANRUN_TEST_NOT_SET
""")  # noqa: E501
UNREADABLE = cases("""
    target.domain=[[0,1] | target.domain=[[0,1] ... bracket
    seed | 'seed' is not an override ... key=value
    =3 | '=3' is not an override
    houses.csv | write target.path=houses.csv target.outputs=COLUMN
    seed=f(x) | seed=f(x) ... text needs quotes
    "'seed=a b)'" | seed=a b) cannot be read
    seed=1,2 | seed=1,2 has several values ... -m ... seed=[...]
    -m seed=range(0) | seed=range(0) has no values
    -m model=glob(z*) | model=glob(z*) has no values
    -m seed=interval(0,1) | seed=interval(0,1) ... range(...)
    target.inputs=a,b | target.inputs=a,b ... target.inputs=[...]
    -m seed=range(0,1000) n_seeds=range(1,1000) | more than 100000 in one run
""")
FLAGS = cases("""
    --nonsense | No such option: --nonsense (see kanrun fit --help)
    --model mlp | Settings are written key=value: model=VALUE (see kanrun fit
    --cfg nonsense | nonsense ... job
    --info | --info
    --resolve | --resolve ... --cfg
    --cfg job -m | --cfg and --multirun
    --config-dir nowhere | --config-dir nowhere is not a folder
    --config-path mine | No such option: --config-path
    --config-name nope | no configuration nope ... fit
    hydra.run.dir=x | hydra.run.dir=x ... --outputs
    hydra/launcher=joblib | hydra/launcher=joblib ... n_jobs=N
    -m hydra/sweeper=optuna | hydra/sweeper=optuna is not available
    +hydra.searchpath=[mine] | hydra.searchpath=[mine] is not available
    -m tracker=mlflow,trackio | tracker is a setting of the whole run
    -m tags=[a],[b] | tags is a setting of the whole run
    -m max_cpu_seconds=1,2 | max_cpu_seconds is a setting of the whole run
    -m n_jobs=1,2 | n_jobs is a setting of the whole run
""")
OTHER_COMMANDS = cases("""
    curves parts=[c] | parts=[c] must be a non-empty list of bezier, ... planar, each once (parts to
    curves parts=bezier | parts=bezier must be ... Write it in brackets: parts=[bezier].
    curves parts=[] | parts=[] must be a non-empty list
    curves parts=[bezier,bezier] | parts=[bezier,bezier] must be ... each once
    curves bezier=[[0,1],[2]] | bezier=[[0,1],[2]] must be a list of at least 2 lists of 2 numbers
    curves bezier=[[0,nan],[2,1]] | bezier has a number that is not finite, or too large
    extend-grid shapes=[5] | shapes=[5] must be a non-empty list of lists of whole
    interpret custom_candidates=5 | custom_candidates=5 must be a mapping {name: value}
    interpret error_tolerance=nan | error_tolerance has a number that is not finite
    solve target=runge | target is not a group of solve; its groups: equation
    curves points.csv | write target.path=points.csv.
    solve points.csv | write key=value
    import none.pt | there is no file 'none.pt' in
    import none/none.pt | none is not there
    keys modle | modle
    keys --command fti | did you mean fit
    nonsense | nonsense
    fitt | Did you mean 'fit'?
    runs shw | Did you mean 'show'?
    runs show nope | nope
    runs resume nope | nope
""")
EXTREME = [
    (f"model.hidden={'[' * 60}{']' * 60}", "brackets more than 50 deep"),
    (f"model.intervals=[1{'0' * 400}]", "model.intervals has a number that is not finite, or too"),
]
OF_FIT = [*UNKNOWN_KEYS, *UNKNOWN_CHOICES, *WRONG_VALUES, *UNREADABLE, *FLAGS, *EXTREME]


@pytest.mark.parametrize(
    "line, said", [*((f"fit {line}", said) for line, said in OF_FIT), *OTHER_COMMANDS]
)
def test_wrong_command_lines_are_refused_in_one_sentence(refused, says, line, said):
    assert says(refused(line.replace("EXAMPLES", str(EXAMPLES))), said)


@pytest.mark.parametrize("option", ["option", "variable"])
def test_outputs_below_a_file_are_refused(refused, tmp_path, option, monkeypatch):
    (tmp_path / "file").write_text("")
    if option == "variable":
        monkeypatch.setenv("KANRUN_OUTPUTS", "file")
    assert "file/fit" in refused("fit" + " --outputs file" * (option == "option"))


def test_a_run_cannot_be_taken_for_a_folder_of_groups(kanrun, fit):
    run = kanrun("fit -q").folder
    result = kanrun(f"fit --config-dir {run}", code=2)
    assert f"kanrun runs rerun {run}" in result.err
