"""Formulas, paths and lists of columns have the same value in the configuration as typed."""

import string
from operator import attrgetter

import pytest
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from kanrun.config.conversion import typed_config, with_values
from kanrun.launch import Source, compose
from kanrun.launch.arguments import read_text

LETTERS = st.one_of(
    st.sampled_from("\\'\"${}[]()=,:; .+-*^?|~@%&<>!#"),
    st.sampled_from(string.ascii_letters + string.digits),
    st.characters(exclude_categories=["Cs", "Cc"]),
)
TEXTS = st.text(LETTERS, min_size=1, max_size=14).map(str.strip).filter(bool)


def arrives(text, kind="text"):
    """Return the value that the configuration has for text typed on the command line."""
    holder = OmegaConf.create({"value": read_text(text, kind, "key")})
    value = holder.value
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def composed(command, *words, several=False):
    """Return the configuration of every point of a command line."""
    study = compose(Source(command), words, several=several)
    return [study.config(point.number) for point in study.points]


def is_plain(text):
    """Return whether text is neither quoted, nor in brackets, nor a word with a special meaning."""
    special = (
        text.lower() in ("null", "???")
        or text.startswith(("choice", "shuffle", "["))
        or "${" in text
    )
    return not special and not (text[0] in "'\"" and text[-1] == text[0])


@given(TEXTS.filter(is_plain))
@settings(max_examples=100)
def test_a_text_arrives_as_typed(text):
    assert arrives(text) == text


@given(
    st.lists(
        TEXTS.filter(is_plain).filter(lambda text: not set(text) & set(",()[]{}'\"")),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60)
def test_columns_arrive_as_typed(names):
    assert arrives(f"[{', '.join(names)}]", "list") == names


TEXTS_AS_TYPED = cases(r"""
    exp(-x0)*sin(3*x1) | exp(-x0)*sin(3*x1)
    '3' | '3'
    jv(0, 20*x0) | jv(0, 20*x0)
    "'x0^2'" | x0^2
    '"x0^2"' | x0^2
    "'it\\'s'" | it's
    a,b=c.csv | a,b=c.csv
    ~/x y.csv | ~/x y.csv
    C:\data\x.csv | C:\data\x.csv
    it's.csv | it's.csv
    [a].csv | [a].csv
    a${b.csv | a${b.csv
    \${b}.csv | ${b}.csv
    true | true
    null | None
""")
LISTS = cases("""
    [sepal length (cm),b] | ['sepal length (cm)', 'b']
    [ a , b ] | ['a', 'b']
    ['a, b',c] | ['a, b', 'c']
    [f(x,y),1,true] | ['f(x,y)', '1', 'true']
    [a (x,b] | ['a (x', 'b']
    '[]' | []
    area (m2) | ['area (m2)']
    "'a, b'" | ['a, b']
""")
STRUCTURES = cases("""
    '[[-1,1],[0,2.5]]' | [[-1, 1], [0, 2.5]]
    [[-pi,pi],[0.4*pi,1.6*pi]] | [['-pi', 'pi'], ['0.4*pi', '1.6*pi']]
    [[-sqrt(2), 2^3], [1e-3, .5]] | [['-sqrt(2)', '2^3'], [0.001, 0.5]]
    [['-pi',pi]] | [['-pi', 'pi']]
    {t: [0,1], r: [1,2]} | {'t': [0, 1], 'r': [1, 2]}
    {length (m): m, 'a: b': m/s^2} | {'length (m)': 'm', 'a: b': 'm/s^2'}
    "['u = 0 at x=0, x=1', 'periodic in y']" | ['u = 0 at x=0, x=1', 'periodic in y']
    {ends: {at: 'x=0, x=1', formula: u = 0}} | {'ends': {'at': 'x=0, x=1', 'formula': 'u = 0'}}
    exp(-t)*sin(x), y | exp(-t)*sin(x), y
    [u, null] | ['u', None]
    null | None
""")


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (kind, *case)
        for kind, cases in {
            "text": TEXTS_AS_TYPED,
            "list": LISTS,
            "structure": STRUCTURES,
        }.items()
        for case in cases
    ],
)
def test_texts_of_free_settings_need_no_quotes(kind, text, value):
    assert arrives(text, kind) == value


def test_interpolations_within_texts_are_resolved(monkeypatch):
    monkeypatch.setenv("KANRUN_TEST_FOLDER", "/data")
    assert arrives("${oc.env:KANRUN_TEST_FOLDER}/a (1).csv") == "/data/a (1).csv"
    assert arrives("'${oc.env:KANRUN_TEST_FOLDER}/a.csv'") == "/data/a.csv"
    (one,) = composed("fit", "model.hidden=[${n_seeds}]", "seed=${n_seeds}")
    assert (one.model.hidden, one.seed) == ([1], 1)


@pytest.mark.parametrize(
    "command, words, values",
    cases("""
        fit | ['target=table', 'target.path=a=[b,c].csv', 'target.outputs=y'] | {'target.path': 'a=[b,c].csv'}
        solve | ['equation.exact=x*(1 - x), or so'] | {'equation.exact': 'x*(1 - x), or so'}
        fit | ['note=a, b', 'tags=[x y]'] | {'note': 'a, b', 'tags': ['x y']}
        fit | ['suite=[{seed: 1}]', '++suite.0.target.formula=x0, 1'] | {'suite': [{'seed': 1, 'target': {'formula': 'x0, 1'}}]}
    """),  # noqa: E501
)
def test_values_with_commas_and_blanks_arrive_as_typed(command, words, values):
    (one,) = composed(command, *words)
    assert {key: attrgetter(key)(one) for key in values} == values


@pytest.mark.parametrize("study", ["toy_suite", "fit/toy_suite"])
def test_study_may_be_named_with_or_without_its_command(study):
    (one,) = composed("fit", f"study={study}")
    assert (len(one.suite), one.n_seeds) == (8, 5)


@pytest.mark.parametrize(
    "text, values",
    cases("""
        sin(x0),x0^2 | ['sin(x0)', 'x0^2']
        "'sin(x0)','x0^2'" | ['sin(x0)', 'x0^2']
        choice(sin(x0),x0^2) | ['sin(x0)', 'x0^2']
        choice('jv(0, x0)', exp(x0)) | ['jv(0, x0)', 'exp(x0)']
        jv(0, x0) | ['jv(0, x0)']
        choice(x0^2) | ['x0^2']
    """),
)
def test_several_formulas_make_a_sweep(text, values):
    found = composed("fit", f"target.formula={text}", several=True)
    assert [one.target.formula for one in found] == values


def test_several_lists_of_columns_make_a_sweep():
    words = ("target.path=a.csv", "target.inputs=[a,b],[c (d)]", "target.outputs=y,z", "note=a,b")
    found = composed("fit", *words, several=True)
    assert [(one.target.inputs, one.target.outputs) for one in found] == [
        (["a", "b"], ["y"]),
        (["a", "b"], ["z"]),
        (["c (d)"], ["y"]),
        (["c (d)"], ["z"]),
    ]
    assert {one.note for one in found} == {"a,b"}


def test_points_and_their_arguments():
    words = ["target=runge,product", "degree=range(2,4)", "seed=7"]
    study = compose(Source("fit"), words, several=True)
    assert [point.values for point in study.points] == [
        {"target": target, "model.degree": degree}
        for target in ("runge", "product")
        for degree in (2, 3)
    ]
    assert study.points[3].overrides == ("target=product", "model.degree=3", "seed=7")
    assert [point.base for point in study.points] == [0, 0, 1, 1]
    for point in study.points:
        (alone,) = composed("fit", *point.overrides)
        assert alone == study.config(point.number)


def test_choices_by_pattern():
    study = compose(Source("fit"), ["target=runge", "model=glob(b*)"], several=True)
    assert [point.values["model"] for point in study.points] == ["bezier", "bspline"]
    study = compose(Source("compare-mlp"), ["study=glob(*_activation)"], several=True)
    assert study.points[0].overrides == ("study=no_activation",)


def test_point_of_a_sweep_has_the_implied_settings_of_a_single_call():
    words = ["target=runge,bundled", "target.name=diabetes"]
    study = compose(Source("fit"), words, several=True)
    assert [base["model"]["kind"] for base in study.bases] == ["kan", "auto"]
    assert study.points[1].overrides == ("model=auto", "target=bundled", "target.name=diabetes")


@pytest.mark.parametrize(
    "words, kinds",
    cases("""
        ['target.formula=x0'] | ('expression', 'kan')
        ['target.path=a.csv', 'target.outputs=y'] | ('table', 'auto')
        ['target.path=a.csv', 'target.outputs=y', 'model=kan', 'solver=lm'] | ('table', 'kan')
        ['target=feynman', 'target.id=x', 'target.path=all.yaml'] | ('feynman', 'kan')
        ['target=bundled', 'target.name=diabetes'] | ('bundled', 'auto')
        ['study=toy_suite', 'target.formula=x0', 'target=expression'] | ('expression', 'kan')
    """),
)
def test_keys_that_select_a_target_and_its_model(words, kinds):
    (one,) = composed("fit", *words)
    assert (one.target.kind, one.model.kind) == kinds


def test_many_points_are_composed_once():
    words = ["target=runge", "model=polynomial", "model.degree=range(1,200)"]
    study = compose(Source("fit"), words, several=True)
    assert (len(study.bases), len(study.points)) == (1, 199)
    assert typed_config("fit", with_values(study.bases[0], {"model.degree": 9})).model.degree == 9
    assert typed_config("fit", study.bases[0]).model.degree == 1


def test_mappings_of_points_are_merged_into_the_files_and_empty_ones_empty_a_setting():
    words = ["equation.variables={x: [0, 2]},{y: [0, 1]},{}", "equation=heat"]
    study = compose(Source("solve"), words, several=True)
    found = [study.config(point).equation.variables for point in range(3)]
    default = {"x": [0, 1], "t": [0, 1]}
    assert found == [default | {"x": [0, 2]}, default | {"y": [0, 1]}, {}]


def test_sweep_may_vary_a_setting_inside_a_suite():
    study = compose(Source("fit"), ["+suite=[{seed: 3}]", "suite.0.seed=4,5"], several=True)
    assert [study.config(point.number).suite for point in study.points] == [
        [{"seed": 4}],
        [{"seed": 5}],
    ]


def test_equations_that_a_suite_calls_by_name(tmp_path):
    (tmp_path / "equation").mkdir()
    file = tmp_path / "equation" / "mine.yaml"
    file.write_text("defaults: [heat]\nintervals: [9]\n")
    source = Source("solve", config_dir=str(tmp_path))
    words = ["suite=[{equation: mine, tolerance: 1e-5}]", "suite.0.equation=mine,wave"]
    study = compose(source, words, several=True)
    file.unlink()
    (first,), (second,) = (study.config(number).suite for number in range(2))
    assert (first["equation"]["formula"], first["tolerance"]) == ("u_t = 0.1*u_xx", 1e-5)
    assert first["equation"]["intervals"] == [9]
    assert second["equation"]["name"] == "wave"
