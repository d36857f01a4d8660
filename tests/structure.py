"""Numbers about the structure of the program: files of a run, path of a value, policy fields.

`make structure` prints them. ARCHITECTURE.md names the files of the main path, and
`test_architecture.py` compares that list with the result of `files_executed`.
"""

import ast
import itertools
import json
import tempfile
from pathlib import Path

from processes import python

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "kanrun", ROOT / "experiments")
#: Training has begun when a function of this file is called.
TRAINING = "kanrun/engine/training/__init__.py"

_PROFILED = """
import json, sys, threading
found = []
{recorder}
sys.setprofile(record)
threading.setprofile(record)
from kanrun.__main__ import main
sys.argv = ["kanrun", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
sys.setprofile(None)
print(json.dumps(found))
"""


def _profiled(recorder, arguments):
    """Return the list `found` of a command; `recorder` is program text that defines `record`."""
    with tempfile.TemporaryDirectory() as place:
        words = (*arguments, "--outputs", place, "-q")
        done = python("-c", _PROFILED.format(recorder=recorder, arguments=words), cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


#: Of the flags of code objects, 1 is set for functions, but not for modules and classes.
_EXECUTED = """
def record(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename not in found:
        found.append(code.co_filename)
"""


def files_executed(*arguments):
    """Return the files of kanrun whose functions a command executes, by their first call."""
    files = map(Path, _profiled(_EXECUTED, arguments))
    return [
        file.relative_to(ROOT).as_posix()
        for file in files
        if any(file.is_relative_to(package) for package in PACKAGES)
    ]


_FOLLOWED = """
def holds(value, depth=0):
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        return depth < 3 and any(holds(each, depth + 1) for each in value)
    return type(value) in (int, str) and str(value) == {value!r}
def record(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith({roots!r}):
        return
    if code.co_filename.endswith({training!r}) and code.co_name == "train":
        sys.setprofile(None)
        return
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values = {{name: frame.f_locals.get(name) for name in names if name not in ("self", "cls")}}
    held = [name for name, value in values.items() if holds(value)]
    if held:
        whole = [name for name in held if isinstance(values[name], dict)]
        found.append([code.co_filename, code.co_name, held, whole])
"""


def path_of(value, *arguments):
    """Return the calls that receive a value of the command line before training begins.

    Each call is a tuple: its file, its function, the names of the arguments that contain the value
    (possibly inside lists and mappings), and those of them that are mappings.
    """
    roots = tuple(f"{package}/" for package in PACKAGES)
    recorder = _FOLLOWED.format(value=str(value), roots=roots, training=TRAINING)
    steps = _profiled(recorder, arguments)
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
    print(f"of these before training: {files.index(TRAINING)}")
    print("\n".join(f"  {file}" for file in files))
    steps = path_of(61, "fit", "target=product", "sampling.n_train=61", "model.hidden=[1]")
    files = [file for file, *_ in steps]
    rooms = [room for room, _ in itertools.groupby(str(Path(file).parent) for file in files)]
    names = {name for _, _, found, _ in steps for name in found}
    print(f"files that the 61 of sampling.n_train=61 passes before training: {len({*files})}")
    print(f"  returns to a package: {len(rooms) - len({*rooms})}")
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
