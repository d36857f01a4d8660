"""Functions that run programs in child processes and check their exit codes."""

import subprocess
import sys


def run(command, code=0, **options):
    """Run a command, check its exit code (None allows any), and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert code in (done.returncode, None), done.stdout + done.stderr
    return done


def python(*words, **options):
    """Run Python with these arguments."""
    return run([sys.executable, *map(str, words)], **options)
