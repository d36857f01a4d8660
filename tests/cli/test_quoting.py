"""Formulas, paths and column lists reach the configuration as they were typed."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from kanrun.launch import Request
from kanrun.launch.composing import compose, opened
from kanrun.launch.quoting import hydra_words, literal, split

LETTERS = st.one_of(
    st.sampled_from("\\'\"${}[]()=,:; .+-*^?|~@%&<>!#"),
    st.sampled_from(string.ascii_letters + string.digits),
    st.characters(exclude_categories=["Cs", "Cc"]),
)
TEXTS = st.text(LETTERS, min_size=1, max_size=14).map(str.strip).filter(bool)


def arrives(word: str, multirun: bool = False) -> Any:
    """The value of an override as the composed configuration has it."""
    (quoted,) = hydra_words([word], "fit", multirun)
    (override,) = OverridesParser.create().parse_overrides([quoted])
    holder = OmegaConf.create({"value": None})
    OmegaConf.update(holder, "value", override.value())
    value = holder.value
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def jobs(word: str) -> list[Any]:
    """The values of a sweep, as its jobs have them."""
    request = Request(
        "fit", tuple(hydra_words(["target=expression", word], "fit", multirun=True)), multirun=True
    )
    with opened(request) as loader:
        return [job.target.formula for job in compose(request, loader).jobs]


def is_plain(text: str) -> bool:
    """Not quoted or in brackets already, and no words with a meaning of their own."""
    special = (
        text.lower() in ("null", "???")
        or text.startswith(("choice", "shuffle", "["))
        or "${" in text
    )
    return not special and not (text[0] in "'\"" and text[-1] == text[0])


@given(TEXTS.filter(is_plain))
@settings(deadline=None, max_examples=300)
def test_a_path_arrives_as_typed(text: str) -> None:
    assert arrives(f"target.path={text}") == text


@given(TEXTS.filter(is_plain))
@settings(deadline=None, max_examples=300)
def test_a_formula_arrives_as_typed(text: str) -> None:
    assert arrives(f"target.formula={text}") == text


@given(
    st.lists(
        TEXTS.filter(is_plain).filter(lambda text: not set(text) & set(",()[]{}'\"")),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=200)
def test_columns_arrive_as_typed(names: list[str]) -> None:
    assert arrives(f"target.inputs=[{', '.join(names)}]") == names


@given(
    st.text(LETTERS, max_size=14).filter(lambda text: text != "???")
)  # OmegaConf's sign for what is not given
@settings(deadline=None, max_examples=300)
def test_a_literal_is_read_back(text: str) -> None:
    assert arrives(f"other.key={literal(text)}") == text
    assert arrives(f"target.path={literal(text)}") == text
    assert arrives(f"target.formula={literal(text)}", multirun=True) == text


@given(st.text(st.sampled_from("ab,()[]'\" "), max_size=12))
def test_splitting_loses_nothing(text: str) -> None:
    assert "".join(split(text)).replace(" ", "").replace(",", "") == text.replace(" ", "").replace(
        ",", ""
    )


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("target.formula=exp(-x0)*sin(3*x1)", "exp(-x0)*sin(3*x1)"),
        ("target.formula=sqrt(x0)", "sqrt(x0)"),
        ("target.formula=x0^2", "x0^2"),
        ("target.formula=3", "3"),
        ("target.formula=jv(0, 20*x0)", "jv(0, 20*x0)"),
        ("target.formula='x0^2'", "x0^2"),
        ('target.formula="x0^2"', "x0^2"),
        ("target.formula=[sin(x0), cos(x0)]", ["sin(x0)", "cos(x0)"]),
        ("+target.formula=sqrt(x0)", "sqrt(x0)"),
        ("++suite.0.target.formula=sqrt(x0)", "sqrt(x0)"),
        ("target.path=data (1).csv", "data (1).csv"),
        ("target.path=a,b=c.csv", "a,b=c.csv"),
        ("target.path=~/x y.csv", "~/x y.csv"),
        ("target.path=C:\\data\\x.csv", "C:\\data\\x.csv"),
        ("target.path=it's.csv", "it's.csv"),
        ('target.path=it\'s "x".csv', 'it\'s "x".csv'),
        ("target.path=[a].csv", "[a].csv"),
        ("target.path=a${b.csv", "a${b.csv"),
        ("target.path=\\${b}.csv", "${b}.csv"),
        ("target.path=1e5", "1e5"),
        ("target.path=true", "true"),
        ("target.path=null", None),
        ("target.inputs=[sepal length (cm),b]", ["sepal length (cm)", "b"]),
        ("target.inputs=[ a , b ]", ["a", "b"]),
        ("target.inputs=['a, b',c]", ["a, b", "c"]),
        ("target.inputs=[f(x,y),1,true]", ["f(x,y)", "1", "true"]),
        ("target.inputs=[a (x,b]", ["a (x", "b"]),
        ("target.inputs=[]", []),
        ("target.outputs=price", ["price"]),
        ("target.outputs=area (m2)", ["area (m2)"]),
        ("target.outputs='a, b'", ["a, b"]),
        ("target.domain=[[-1,1],[0,2.5]]", [[-1, 1], [0, 2.5]]),
        ("target.domain=[[-pi,pi],[0.4*pi,1.6*pi]]", [["-pi", "pi"], ["0.4*pi", "1.6*pi"]]),
        ("target.domain=[[-sqrt(2), 2^3], [1e-3, .5]]", [["-sqrt(2)", "2^3"], [0.001, 0.5]]),
        ("target.domain=[['-pi',pi]]", [["-pi", "pi"]]),
        ("target.domain=null", None),
        ("candidates=[sin,exp,x^2,1/x]", ["sin", "exp", "x^2", "1/x"]),
        ("candidates=['x^2', sin]", ["x^2", "sin"]),
        ("candidates=sin", ["sin"]),
        ("custom_candidates.bump=1/(1+x0^2)", "1/(1+x0^2)"),
        ("+custom_candidates.bump='1/(1+x0^2)'", "1/(1+x0^2)"),
        ("from_run=a (1),b=c/v0001", "a (1),b=c/v0001"),
        ("model.hidden=[2,3]", [2, 3]),
        ("seed=3", 3),
    ],
)
def test_what_arrives(word: str, value: Any) -> None:
    assert arrives(word) == value


def test_interpolations_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KANRUN_TEST_FOLDER", "/data")
    assert arrives("target.path=${oc.env:KANRUN_TEST_FOLDER}/a (1).csv") == "/data/a (1).csv"
    assert arrives("target.path='${oc.env:KANRUN_TEST_FOLDER}/a.csv'") == "/data/a.csv"


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("target.formula=sin(x0),x0^2", ["sin(x0)", "x0^2"]),
        ("target.formula='sin(x0)','x0^2'", ["sin(x0)", "x0^2"]),
        ("target.formula=choice(sin(x0),x0^2)", ["sin(x0)", "x0^2"]),
        ("target.formula=choice('jv(0, x0)', exp(x0))", ["jv(0, x0)", "exp(x0)"]),
        ("target.formula=jv(0, x0)", ["jv(0, x0)"]),
        ("target.formula=choice(x0^2)", ["x0^2"]),
    ],
)
def test_sweeps(word: str, values: list[str]) -> None:
    assert jobs(word) == values


def test_sweeps_over_columns() -> None:
    words = hydra_words(["target.inputs=[a,b],[c (d)]", "target.outputs=y,z"], "fit", multirun=True)
    assert words == ["target.inputs=['a','b'],['c (d)']", "target.outputs=['y'],['z']"]


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("study=toy_suite", "study=fit/toy_suite"),
        ("study=other/x", "study=other/x"),
        ("study=a,b", "study=fit/a,fit/b"),
        ("study=null", "study=null"),
        ("~study", "~study"),
        ("hydra.sweep.path=x y", "hydra.sweep.path=x y"),
        ("target.path=", "target.path="),
        ("path=x y", "path=x y"),
    ],
)
def test_words_of_other_kinds(word: str, quoted: str) -> None:
    assert hydra_words([word], "fit", multirun=False) == [quoted]


def test_studies_of_a_command_with_a_dash() -> None:
    assert hydra_words(["study=paper"], "extend-grid", multirun=False) == [
        "study=extend_grid/paper"
    ]


def test_what_is_composed_is_what_was_typed() -> None:
    words = [
        "target=expression",
        "target.formula=exp(-x0)*sin(3*x1)",
        "target.domain=[[-pi,pi],[0,2]]",
    ]
    with opened(Request("fit")) as loader:
        composed = loader.load_configuration(
            "fit", hydra_words(words, "fit", multirun=False), RunMode.RUN
        )
    assert composed.target.formula == "exp(-x0)*sin(3*x1)"
    assert composed.target.domain == [["-pi", "pi"], [0, 2]]


def test_texts_by_name_are_quoted() -> None:
    (word,) = hydra_words(["target.units={length (m): m, g: m/s^2}"], "interpret", multirun=False)
    assert word.startswith("++target.units={")
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert parsed.value() == {"length (m)": "m", "g": "m/s^2"}
