"""The automatic model of a table: one Gaussian model with one kernel, found by its evidence.

Columns become scores, functions of each input, and ranks (`encoder`). The kernel over them
(`kernel`) and the likelihood of the outputs (`likelihoods`) have the largest evidence on a sample
of rows (`evidence`); all rows determine the coefficients (`posterior`). `fitting` puts these
together and repeats them in each fold (`folds`); `to_kan` writes a `table_model` as one KAN.
"""

from kanrun.engine.tables.fitting import fit_table
from kanrun.engine.tables.table_model import TableModel, TablePolicy
