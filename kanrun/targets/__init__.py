"""Targets to learn (functions, formulas and tables), and the points drawn from them.

No module of this package imports torch, and only `functions` imports sympy. `settings`,
`table_files` and `table_text` do not load numpy, so a missing column is reported without it.
"""
