"""Names, docstrings and messages follow CONTRIBUTING.md, as far as a test can tell.

Ruff's pydocstyle rules (google, D401) check the rest.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("kanrun", "experiments") for path in (ROOT / folder).rglob("*.py")
)
#: Words with which no docstring of a function begins: a summary is an imperative.
FIRST_WORDS = re.compile(r"(The|What|Whether|How|As|Of|Which|Where|When|None|Who|A|An)\b")
#: Words with which no docstring of a module, a class or a property begins: it is a noun phrase.
#: "Whether" is allowed, for booleans.
CLAUSES = re.compile(r"(What|How|As|Of|Which|Where|When|Who|That)\b")
#: Phrases that have a standard term.
PHRASES = {
    r"\bgo(es|ing)? on\b": "continue, resume",
    r"\bbegins? anew|drawn anew|starts? anew\b": "restart, redraw",
    r"\bin order with the best\b": "stops cleanly",
    r"\bof which none\b": "none of the",
    r"\bis no (name|tag|number|table|formula|expression)\b": "is not a valid ...",
    r"\bfirst guess(es)?\b": "initial guess",
    r"\bleft-out\b": "held-out, leave-one-out",
    r"\btold apart\b": "distinguished, identified",
    r"\bby itself\b": "automatically",
    r"\bsought\b": "unknown, searched for",
    r"\bhopeless\b": "stalled",
    r"\bfaint(ly)?\b": "weakly determined",
    r"\bwiggles?\b": "nonlinear component",
    r"\btwo tops\b": "two local maxima",
    r"\bbears? (the|a)\b": "has the",
    r"\bat odds\b": "incompatible",
    r"\bof (your|the user's|one's) own\b": "custom",
    r"\b(half a|a tenth of a) percent\b": "digits with a unit",
    r"\bso many\b": "this many",
}


def docstrings(tree):
    """Yield each documented definition with its docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield node, text


def is_property(node):
    """Return whether a definition is a property, whose docstring is a noun phrase."""
    decorators = getattr(node, "decorator_list", [])
    return any("property" in ast.unparse(one) for one in decorators)


@pytest.mark.parametrize("folder", ["kanrun", "experiments"])
def test_summaries_are_imperatives_for_functions_and_noun_phrases_for_others(folder):
    found = []
    for path in (one for one in FILES if one.relative_to(ROOT).parts[0] == folder):
        for node, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            words = FIRST_WORDS if function and not is_property(node) else CLAUSES
            if words.match(text):
                line = getattr(node, "lineno", 1)
                found.append(f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}")
    assert found == []


@pytest.mark.parametrize("phrase", PHRASES)
def test_stock_phrases_are_standard_terms(phrase):
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(phrase, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == [], PHRASES[phrase]


def shared(names):
    """The names that several files have, with those files."""
    places = defaultdict(list)
    for name, path in names:
        places[name].append(path.relative_to(ROOT).as_posix())
    return {name: files for name, files in places.items() if len(files) > 1}


def test_no_two_classes_share_a_name():
    classes = (
        (node.name, path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert shared(classes) == {}


def test_no_two_modules_of_the_engine_share_a_name():
    modules = (
        (path.stem, path)
        for path in FILES
        if "engine" in path.relative_to(ROOT).parts and path.stem != "__init__"
    )
    assert shared(modules) == {}
