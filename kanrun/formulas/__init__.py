"""Formulas: text is checked, parsed to sympy expressions, and converted to other forms.

No module of this package imports torch. Only `parsing`, `conversion`, `equations` and `units` load
sympy, so invalid names and syntax are reported without it.
"""
