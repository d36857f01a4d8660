"""Numbers about the structure of the program: files of a run, fields of policies.

`make structure` prints them. ARCHITECTURE.md names the files of the main path, and
`test_architecture.py` compares that list with the result of `files_executed`.
"""

import ast
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
    fields = policy_fields()
    print(f"fields of {len(fields)} policies: {sum(fields.values())}")
    print("\n".join(f"  {name}: {count}" for name, count in fields.items()))


if __name__ == "__main__":
    main()
