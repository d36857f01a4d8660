"""List the benchmarks, or run one: `python benchmarks [NAME [ARGUMENTS]]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from _running import chosen

folder = Path(__file__).parent
known = yaml.safe_load((folder / "names.yaml").read_text("utf-8"))
if len(sys.argv) == 1:
    for name, (_, about) in known.items():
        print(f"{name:15} {about}")
    raise SystemExit
(wanted,) = chosen(known, sys.argv[1:2])
script, *words = known[wanted][0].split()
called = subprocess.run([sys.executable, folder / script, *words, *sys.argv[2:]], check=False)
raise SystemExit(called.returncode)
