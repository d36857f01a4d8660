"""Names given by experiments and users, made into names of files that cannot leave their folder."""

from __future__ import annotations

import hashlib
import re

_FOREIGN = re.compile(r"[^\w.=+,-]", re.ASCII)
_LONGEST = 100


def file_name(name: str) -> str:
    """Return `name` as a plain file name: itself if that is safe, else cleaned and told apart by a hash.

    Kept are ASCII letters, digits and `_.=+,-`; a leading dot or dash, separators, blanks and everything
    else become `_`. Two different names never give one file (up to a collision of 32 bits of SHA-256).
    """
    cleaned = _FOREIGN.sub("_", name)[:_LONGEST]
    if cleaned[:1] in {".", "-"}:
        cleaned = "_" + cleaned[1:]
    if cleaned and cleaned == name:
        return name
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{cleaned or 'unnamed'}-{mark}"
