from __future__ import annotations

import sys
from pathlib import Path

# Worker processes inherit the path, and import the toy experiment by its name.
sys.path.append(str(Path(__file__).parent / "toys"))
