"""The automatic model of a table: candidates in closed form, stacked, as one KAN.

`fit_table` (table_model) maps columns to scores (scores), fits and stacks candidates (stacking)
made of functions of single inputs and of pairs (reduced_basis, design, table_candidates) and of a
Gaussian process (gaussian_process), with variances by restricted maximum likelihood
(variance_components), and converts the result (to_kan). Cross-validation and effects are computed
from its result.
"""

from kanrun.engine.tables.table_model import TableModel, fit_table
from kanrun.engine.tables.to_kan import to_kan
from kanrun.engine.tables.variance_components import TablePolicy
