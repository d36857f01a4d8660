"""Numbers about the structure of the program: files of a run, path of a value, policy fields.

`make structure` prints them. ARCHITECTURE.md names the files of the main path, and
`test_architecture.py` compares that list with the result of `files_executed`.
"""

import ast
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "kanrun", ROOT / "experiments")
#: Training has begun when a function of this file is called.
TRAINING = "kanrun/engine/training/__init__.py"
#: Flag that only code objects of functions have, not those of modules and classes.
CO_OPTIMIZED = 0x1

_TRACED = """
import json, sys, threading
executed = {{}}
def record(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & {flag}:
        executed.setdefault(code.co_filename, None)
sys.setprofile(record)
threading.setprofile(record)
from kanrun.__main__ import main
sys.argv = ["kanrun", *{arguments!r}]
try:
    code = main()
except SystemExit as end:
    code = end.code
sys.setprofile(None)
print(json.dumps([code, list(executed)]))
"""


def files_executed(*arguments):
    """Return the files of kanrun whose functions a command executes, by their first call."""
    with tempfile.TemporaryDirectory() as place:
        words = (*arguments, "--outputs", place, "-q")
        code = _TRACED.format(flag=CO_OPTIMIZED, arguments=words)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
    status, files = json.loads(done.stdout.splitlines()[-1])
    if status:
        raise RuntimeError(done.stderr)
    found = (Path(file) for file in files)
    return [
        file.relative_to(ROOT).as_posix()
        for file in found
        if any(file.is_relative_to(package) for package in PACKAGES)
    ]


def files_before_training(files):
    """Return the files among these that are executed before training begins."""
    return files[: files.index(TRAINING)]


_FOLLOWED = """
import json, sys
from types import FunctionType
steps = []
def holds(value, depth=0):
    if type(value) in (int, str):
        return value == {value} or value == str({value})
    if isinstance(value, (list, tuple)) and depth < 3:
        return any(holds(each, depth + 1) for each in value)
    if isinstance(value, dict) and depth < 3:
        return any(holds(each, depth + 1) for each in value.values())
    return False
def record(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith({roots!r}):
        return
    if code.co_filename.endswith({training!r}) and code.co_name == "train":
        sys.setprofile(None)
        return
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values = {{name: frame.f_locals.get(name) for name in names if name not in ("self", "cls")}}
    found = [name for name, value in values.items() if holds(value)]
    whole = [name for name in found if isinstance(values[name], dict)]
    if found:
        steps.append([code.co_filename, code.co_name, found, whole])
from kanrun.__main__ import main
sys.argv = ["kanrun", *{arguments!r}]
sys.setprofile(record)
try:
    main()
except SystemExit:
    pass
sys.setprofile(None)
print(json.dumps(steps))
"""


def path_of(value, *arguments):
    """Return the calls that receive a value of the command line before training begins.

    Each call is a tuple: its file, its function, the names of the arguments that contain the value
    (possibly inside lists and mappings), and those of them that are mappings.
    """
    roots = tuple(f"{package}/" for package in PACKAGES)
    with tempfile.TemporaryDirectory() as place:
        words = (*arguments, "--outputs", place, "-q")
        code = _FOLLOWED.format(value=value, roots=roots, training=TRAINING, arguments=words)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
    steps = json.loads(done.stdout.splitlines()[-1])
    return [(Path(file).relative_to(ROOT).as_posix(), *rest) for file, *rest in steps]


def policy_fields():
    """Return the number of fields of each class whose name ends with Policy."""
    return {
        node.name: sum(isinstance(entry, ast.AnnAssign) for entry in node.body)
        for package in PACKAGES
        for file in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Policy")
    }


def main():
    """Print the numbers."""
    files = files_executed("fit", "target=product")
    print(f"files whose functions `kanrun fit target=product` executes: {len(files)}")
    print(f"of these before training: {len(files_before_training(files))}")
    print("\n".join(f"  {file}" for file in files))
    steps = path_of(61, "fit", "target=product", "sampling.n_train=61", "model.hidden=[1]")
    files = [file for file, *_ in steps]
    rooms = [str(Path(file).parent) for file in files]
    moves = [room for before, room in itertools.pairwise(rooms) if room != before]
    returns = len(moves) + 1 - len({*rooms})
    names = {name for _, _, found, _ in steps for name in found}
    print(f"files that the 61 of sampling.n_train=61 passes before training: {len({*files})}")
    print(f"  returns to a package: {returns}")
    print(f"  names: {len(names)} ({', '.join(sorted(names))})")
    for file, function, found, whole in dict.fromkeys(
        (file, function, *map(tuple, rest)) for file, function, *rest in steps
    ):
        mapping = f" (whole mapping: {', '.join(whole)})" if whole else ""
        print(f"  {file} {function}: {', '.join(found)}{mapping}")
    fields = policy_fields()
    print(f"fields of {len(fields)} policies: {sum(fields.values())}")
    print("\n".join(f"  {name}: {count}" for name, count in fields.items()))


if __name__ == "__main__":
    main()
