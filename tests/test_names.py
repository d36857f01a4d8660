"""Unique names: of the public classes of kanrun, and of the modules of the engine."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("kanrun", "experiments") for path in (ROOT / folder).rglob("*.py")
)


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
