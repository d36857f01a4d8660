from __future__ import annotations
def figures(tables):
    return iter(())
