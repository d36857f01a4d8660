"""Mutants of the program: small changes, each of which a test should notice.

`make mutants` draws changes of operators, comparisons, conditions and constants with a fixed seed,
runs tests that execute the changed line, and prints the survivors. Which tests execute which line
is recorded once, by coverage. mutmut 3 changes neither decorated functions nor constants outside
functions, where most decisions of the program are; cosmic-ray runs all tests for every change.
"""

import argparse
import ast
import itertools
import linecache
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from coverage import CoverageData

ROOT = Path(__file__).parents[1]
FOLDERS = ("kanrun/engine", "kanrun/study", "kanrun/targets", "experiments")
RECORD = ROOT / "build" / "mutants"
#: Tests that run commands in child processes, whose executed lines are not recorded.
LEFT_OUT = ("hard", "plugins", "test_site.py", "test_docs.py", "test_packaging.py")
PAIRS = [
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.And, ast.Or),
]
#: Arguments that act as assertions; they are not changed.
STATED = ("strict", "frozen", "eq")
#: Positive constants below this are tolerances; twice a tolerance would rarely fail a test.
SMALL = 1e-4
NO_CODE = ("annotation", "returns", "decorator_list")
#: Pattern of a comparison of integers or lengths.
WHOLE = re.compile(r"\blen\(|\.(size|shape|ndim|numel)\b|(?<![\w.])\d+(?![\w.])")
OTHER = dict(PAIRS) | {second: first for first, second in PAIRS}


@dataclass(frozen=True)
class Mutant:
    """A changed version of one expression in a file."""

    path: str
    node: ast.expr
    text: str
    #: Name that the expression defines; empty inside functions.
    name: str

    def __str__(self):
        return f"{self.path}:{self.node.lineno}: {ast.unparse(self.node)}  ->  {self.text}"

    def applied(self, content):
        """Return the content with the change; the number of lines stays the same."""
        starts = [0, *itertools.accumulate(map(len, content.splitlines(keepends=True)))]
        first = starts[self.node.lineno - 1] + self.node.col_offset
        last = starts[self.node.end_lineno - 1] + self.node.end_col_offset
        lines = b"\n" * (self.node.end_lineno - self.node.lineno)
        return content[:first] + b"(" + self.text.encode() + lines + b")" + content[last:]


def changes(node):
    """Yield the changed forms of an expression.

    Small constants, which are tolerances, are multiplied and divided by 100. A comparison is
    changed from < to <= only between integers or lengths, because floating-point numbers are rarely
    equal.
    """
    match node:
        case ast.BinOp() if type(node.op) in OTHER:
            yield ast.BinOp(node.left, OTHER[type(node.op)](), node.right)
        case ast.BoolOp():
            yield ast.BoolOp(OTHER[type(node.op)](), node.values)
        case ast.Compare(ops=[one]) if type(one) in OTHER:
            if isinstance(one, ast.Eq | ast.NotEq) or WHOLE.search(ast.unparse(node)):
                yield ast.Compare(node.left, [OTHER[type(one)]()], node.comparators)
            yield ast.UnaryOp(ast.Not(), node)
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            factor = 100 if 0 < node.value < SMALL else 2
            yield ast.Constant(factor * node.value or 1)
            if node.value and isinstance(node.value, float):
                yield ast.Constant(node.value / factor)
            elif node.value not in (0, 1):
                yield ast.Constant(node.value + 1)


def mutants_of(path):
    """Yield the mutants of a file.

    Annotations, decorators, assertions, indices and texts are not changed.
    """

    def visit(node, name):
        if isinstance(node, ast.expr):
            for changed in changes(node):
                yield Mutant(path, node, ast.unparse(changed), name)
        if isinstance(node, ast.FunctionDef):
            name = ""
        elif name and isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            name = ast.unparse(target)
        for part, field in ast.iter_fields(node):
            for child in field if isinstance(field, list) else [field]:
                kept = isinstance(child, ast.AST) and part not in NO_CODE
                kept = kept and getattr(child, "arg", None) not in STATED
                if kept and not isinstance(child, ast.Assert | ast.JoinedStr | ast.Subscript):
                    yield from visit(child, name)

    yield from visit(ast.parse((ROOT / path).read_text(encoding="utf-8")), Path(path).stem)


def record():
    """Record which tests execute which line."""
    RECORD.mkdir(parents=True)
    ignored = [f"--ignore=tests/{name}" for name in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", "--cov", "--cov-context=test", "--cov-report="]
    environment = {**os.environ, "COVERAGE_FILE": str(RECORD / "coverage")}
    subprocess.run([*command, *ignored], cwd=ROOT, env=environment, check=False)


def recorded():
    """Return the tests of each file and line."""
    found = defaultdict(lambda: defaultdict(set))
    for file in RECORD.iterdir():
        (data := CoverageData(str(file))).read()
        for path in data.measured_files():
            lines = found[Path(path).relative_to(ROOT).as_posix()]
            for line, contexts in data.contexts_by_lineno(path).items():
                # Test functions, whose parameters may name folders of the machine that recorded.
                tests = {context.rpartition("|")[0].partition("[")[0] for context in contexts}
                lines[line] |= tests - {""}
    return found


def tests_of(mutant, found, n_lines, most):
    """Return tests that execute the changed line, at most `most`.

    For a constant outside functions, these are the tests that execute any line of the file. Tests
    that execute a line with the name of the constant come first, then tests whose path has most
    words in common with that of the file, then short tests.
    """
    known = found[mutant.path][mutant.node.lineno]
    users = set()
    if names := re.findall(r"\w+", mutant.name):
        word = re.compile(rf"\b({'|'.join(names)})\b")
        known = set().union(*found[mutant.path].values())
        users = set().union(
            *(
                found[path][number]
                for path in list(found)
                for number, line in enumerate(linecache.getlines(str(ROOT / path)), 1)
                if word.search(line)
            )
        )
    words = set(Path(mutant.path).with_suffix("").parts)

    def order(test):
        path = Path(test.partition("::")[0])
        shared = words & {*path.parts, path.stem.removeprefix("test_")}
        return test not in users, -len(shared), n_lines[test], test

    return sorted(known | users, key=order)[:most]


class TimeLimit:
    """Pytest plug-in that skips the remaining tests when the CPU seconds are used up."""

    def __init__(self, seconds):
        self.seconds = seconds

    def pytest_runtest_setup(self):
        if time.process_time() > self.seconds:
            pytest.skip("time limit")


def outcome(place, tests, seconds):
    """Run tests in a fork; return which one fails, or whether they do not end."""
    log = place / "log"
    if not (process := os.fork()):
        limit = time.process_time() + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 60, int(limit) + 60))
        signal.alarm(20 * (seconds + 60))
        os.chdir(place)
        sys.path.insert(0, str(place))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        options = ["-x", "-q", "-p", "no:cacheprovider"]
        os._exit(pytest.main([*options, *tests], plugins=[TimeLimit(limit)]))
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    passed = (pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
    failed = re.search(r"^(FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.M)
    return "SURVIVED" if code in passed else "slow" if code < 0 else "killed", failed and failed[2]


def main():
    parser = argparse.ArgumentParser()
    for name, default in (("count", 60), ("skip", 0), ("seed", 0), ("tests", 20), ("seconds", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--under", nargs="*", default=FOLDERS, help="folders of those that are run")
    options = parser.parse_args()
    if not RECORD.exists():
        record()
    import matplotlib.figure  # noqa: F401  # for all forks
    import pandas  # noqa: F401
    import sympy  # noqa: F401
    import torch  # noqa: F401

    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    files = [path for path in files if path.name != "plots.py"]  # only sizes and positions
    drawn = [each for path in files for each in mutants_of(path.relative_to(ROOT).as_posix())]
    random.Random(options.seed).shuffle(drawn)
    found = recorded()
    n_lines = Counter(
        test for lines in found.values() for tests in lines.values() for test in tests
    )
    covered = (
        (mutant, tests)
        for mutant in drawn
        if (tests := tests_of(mutant, found, n_lines, options.tests))
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("kanrun", "tests", "docs"):
            shutil.copytree(ROOT / name, place / name)
        for name in ("experiments", "conf"):  # as an installed wheel has them
            shutil.copytree(ROOT / name, place / "kanrun" / name)
            (place / name).symlink_to(place / "kanrun" / name)
        shutil.copy(ROOT / "pyproject.toml", place)
        outcomes = Counter()
        for mutant, tests in itertools.islice(covered, options.skip, options.count):
            if not mutant.path.startswith(tuple(options.under)):
                continue
            file = place / mutant.path
            file.write_bytes(mutant.applied(content := file.read_bytes()))
            result, test = outcome(place, tests, options.seconds)
            file.write_bytes(content)
            outcomes[result] += 1
            print(f"{result:8}", mutant, f"({test or len(tests)})", flush=True)
    print(*(f"{count} {result}" for result, count in outcomes.items()), sep=", ")


if __name__ == "__main__":
    main()
