"""Functions that run programs in child processes and check their exit codes."""

import json
import shutil
import subprocess
import sys
from importlib import resources


def run(command, code=0, **options):
    """Run a command, check its exit code (None allows any), and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert code in (done.returncode, None), done.stdout + done.stderr
    return done


def python(*words, **options):
    """Run Python with these arguments."""
    return run([sys.executable, *map(str, words)], **options)


def node(code, folder, *scripts):
    """Return what `code` writes as JSON in Node; `scripts` of the page are modules in `folder`."""
    program = shutil.which("node")
    assert program is not None, (
        "this test runs the page's scripts in Node: install nodejs (Debian: apt install nodejs)"
    )
    for name in scripts:
        text = (resources.files("kanrun.study.page") / name).read_text("utf-8")
        (folder / name).write_text(text)
    return json.loads(
        run([program, "-e", f"console.log(JSON.stringify({code}))"], cwd=folder).stdout
    )
