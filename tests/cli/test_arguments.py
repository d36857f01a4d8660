"""Formulas, paths and lists of columns have the same value in the configuration as typed."""

import string
from operator import attrgetter

import pytest
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from kanrun.config.rules import typed_config, with_values
from kanrun.launch import Source, compose, read_text

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


def composed(command, *words):
    """Return the configuration of every point of a command line, which may begin with `-m`."""
    several = words[0] == "-m"
    study = compose(Source(command), words[several:], several=several)
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


TYPED = cases(r"""
    text | exp(-x0)*sin(3*x1) | exp(-x0)*sin(3*x1)
    text | '3' | '3'
    text | jv(0, 20*x0) | jv(0, 20*x0)
    text | "'x0^2'" | x0^2
    text | '"x0^2"' | x0^2
    text | "'it\\'s'" | it's
    text | a,b=c.csv | a,b=c.csv
    text | ~/x y.csv | ~/x y.csv
    text | C:\data\x.csv | C:\data\x.csv
    text | it's.csv | it's.csv
    text | [a].csv | [a].csv
    text | a${b.csv | a${b.csv
    text | \${b}.csv | ${b}.csv
    text | true | true
    text | null | None
    list | [sepal length (cm),b] | ['sepal length (cm)', 'b']
    list | [ a , b ] | ['a', 'b']
    list | ['a, b',c] | ['a, b', 'c']
    list | [f(x,y),1,true] | ['f(x,y)', '1', 'true']
    list | [a (x,b] | ['a (x', 'b']
    list | '[]' | []
    list | area (m2) | ['area (m2)']
    list | "'a, b'" | ['a, b']
    structure | '[[-1,1],[0,2.5]]' | [[-1, 1], [0, 2.5]]
    structure | [[-pi,pi],[0.4*pi,1.6*pi]] | [['-pi', 'pi'], ['0.4*pi', '1.6*pi']]
    structure | [[-sqrt(2), 2^3], [1e-3, .5]] | [['-sqrt(2)', '2^3'], [0.001, 0.5]]
    structure | [['-pi',pi]] | [['-pi', 'pi']]
    structure | {t: [0,1], r: [1,2]} | {'t': [0, 1], 'r': [1, 2]}
    structure | {length (m): m, 'a: b': m/s^2} | {'length (m)': 'm', 'a: b': 'm/s^2'}
    structure | "['u = 0 at x=0, x=1', 'periodic in y']" | ['u = 0 at x=0, x=1', 'periodic in y']
    structure | {ends: {at: 'x=0, x=1', formula: u = 0}} | {'ends': {'at': 'x=0, x=1', 'formula': 'u = 0'}}
    structure | exp(-t)*sin(x), y | exp(-t)*sin(x), y
    structure | [u, null] | ['u', None]
    structure | null | None
""")  # noqa: E501


@pytest.mark.parametrize("kind, text, value", TYPED)
def test_texts_of_free_settings_need_no_quotes(kind, text, value):
    assert arrives(text, kind) == value


def test_interpolations_within_texts_are_resolved(monkeypatch):
    monkeypatch.setenv("KANRUN_TEST_FOLDER", "/data")
    assert arrives("${oc.env:KANRUN_TEST_FOLDER}/a (1).csv") == "/data/a (1).csv"
    assert arrives("'${oc.env:KANRUN_TEST_FOLDER}/a.csv'") == "/data/a.csv"


#: Command, words, and values of settings in the configuration of each point.
COMPOSED = cases(r"""
    fit | ['target=table', 'target.path=a=[b,c].csv', 'target.outputs=y'] | {'target.path': ['a=[b,c].csv']}
    solve | ['equation.exact=x*(1 - x), or so'] | {'equation.exact': ['x*(1 - x), or so']}
    fit | ['note=a, b', 'tags=[x y]'] | {'note': ['a, b'], 'tags': [['x y']]}
    fit | ['suite=[{seed: 1}]', '++suite.0.target.formula=x0, 1'] | {'suite': [[{'seed': 1, 'target': {'formula': 'x0, 1'}}]]}
    fit | ['model.hidden=[${n_seeds}]', 'seed=${n_seeds}'] | {'model.hidden': [[1]], 'seed': [1]}
    fit | ['study=toy_suite'] | {'n_seeds': [5]}
    fit | ['study=fit/toy_suite'] | {'n_seeds': [5]}
    fit | ['-m', 'target.formula=sin(x0),x0^2'] | {'target.formula': ['sin(x0)', 'x0^2']}
    fit | ['-m', "target.formula='sin(x0)','x0^2'"] | {'target.formula': ['sin(x0)', 'x0^2']}
    fit | ['-m', 'target.formula=choice(sin(x0),x0^2)'] | {'target.formula': ['sin(x0)', 'x0^2']}
    fit | ['-m', "target.formula=choice('jv(0, x0)', exp(x0))"] | {'target.formula': ['jv(0, x0)', 'exp(x0)']}
    fit | ['-m', 'target.formula=jv(0, x0)'] | {'target.formula': ['jv(0, x0)']}
    fit | ['-m', 'target.formula=choice(x0^2)'] | {'target.formula': ['x0^2']}
    fit | ['-m', 'target.path=a.csv', 'target.inputs=[a,b],[c (d)]', 'target.outputs=y', 'note=a,b'] | {'target.inputs': [['a', 'b'], ['c (d)']], 'note': ['a,b', 'a,b']}
    fit | ['-m', 'target.path=a.csv', 'target.outputs=y,z'] | {'target.outputs': [['y'], ['z']]}
    fit | ['-m', 'target=runge', 'model=glob(b*)'] | {'model.kind': ['bezier', 'bspline']}
    compare-mlp | ['-m', 'study=glob(*_activation)'] | {'comparison': ['no_activation']}
    fit | ['-m', 'target=runge,bundled', 'target.name=diabetes'] | {'model.kind': ['kan', 'auto']}
    fit | ['target.formula=x0'] | {'target.kind': ['expression'], 'model.kind': ['kan']}
    fit | ['target.path=a.csv', 'target.outputs=y'] | {'target.kind': ['table'], 'model.kind': ['auto']}
    fit | ['target.path=a.csv', 'target.outputs=y', 'model=kan', 'solver=lm'] | {'model.kind': ['kan']}
    fit | ['target=feynman', 'target.id=x', 'target.path=all.yaml'] | {'target.kind': ['feynman'], 'model.kind': ['kan']}
    fit | ['target=bundled', 'target.name=diabetes'] | {'target.kind': ['bundled'], 'model.kind': ['auto']}
    fit | ['study=toy_suite', 'target.formula=x0', 'target=expression'] | {'target.kind': ['expression'], 'model.kind': ['kan']}
    solve | ['-m', 'equation.variables={x: [0, 2]},{y: [0, 1]},{}', 'equation=heat'] | {'equation.variables': [{'x': [0, 2], 't': [0, 1]}, {'x': [0, 1], 't': [0, 1], 'y': [0, 1]}, {}]}
    fit | ['-m', '+suite=[{seed: 3}]', 'suite.0.seed=4,5'] | {'suite': [[{'seed': 4}], [{'seed': 5}]]}
""")  # noqa: E501


@pytest.mark.parametrize("command, words, values", COMPOSED)
def test_settings_of_each_point_are_those_that_were_typed(command, words, values):
    """With commas, blanks, interpolations, sweeps and patterns; keys may imply other settings."""
    found = composed(command, *words)
    assert {key: list(map(attrgetter(key), found)) for key in values} == values


def test_points_are_the_calls_that_they_name():
    words = ["target=runge,bundled", "target.name=diabetes", "seed=1,2"]
    study = compose(Source("fit"), words, several=True)
    assert [point.values for point in study.points] == [
        {"target": target, "seed": seed} for target in ("runge", "bundled") for seed in (1, 2)
    ]
    assert study.points[2].overrides == (
        "model=auto",
        "target=bundled",
        "target.name=diabetes",
        "seed=1",
    )
    for point in study.points:
        (alone,) = composed("fit", *point.overrides)
        assert alone == study.config(point.number)


def test_many_points_are_composed_once():
    words = ["target=runge", "model=polynomial", "model.degree=range(1,200)"]
    study = compose(Source("fit"), words, several=True)
    assert (len(study.bases), len(study.points)) == (1, 199)
    assert typed_config("fit", with_values(study.bases[0], {"model.degree": 9})).model.degree == 9
    assert typed_config("fit", study.bases[0]).model.degree == 1
