"""The automatic model of a table: a Gaussian process whose kernel maximises the evidence.

`encoder` maps each input to a score (a transformed value), to functions of the score, and to a
rank. `evidence` finds the parameters of the kernel and of the likelihood of the outputs
(`likelihoods`) that maximise the evidence on a sample of rows. `posterior` then determines the
coefficients from all rows. `fitting` combines these steps and repeats them for each fold (`folds`).
The result, a `TableModel`, is converted to one KAN.
"""

from kanrun.engine.tables.encoder import TablePolicy
from kanrun.engine.tables.fitting import fit_table
from kanrun.engine.tables.table_model import TableModel
