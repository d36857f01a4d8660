"""Programs that tests start, whose exit code is known beforehand."""

import subprocess
import sys


def run(command, code=0, **options):
    """Run a command to its end, and return its output; None stands for any exit code."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert code in (done.returncode, None), done.stdout + done.stderr
    return done


def python(*words, **options):
    """Run Python with these arguments."""
    return run([sys.executable, *map(str, words)], **options)
