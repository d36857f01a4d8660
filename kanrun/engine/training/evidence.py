"""The weight of the smoothness penalty by the evidence, from the training points alone.

Errors are taken for normal, w P(c) for minus the logarithm of a normal prior. With the Gauss-Newton matrix G of the
mean squared error F, the matrix D of the penalty and the effective degrees of freedom e = tr((G + w D)^+ G), the
evidence is largest where

    w = (e - f) F / ((n - e) P),

n the number of output values and f the number of unknowns that the penalty leaves free (Fellner-Schall).
Sources: S. Wood and M. Fasiolo, Biometrics 73 (2017) 1071-1081; D. MacKay, Neural Computation 4 (1992) 415-447.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch

from kanrun.engine.networks import Network
from kanrun.engine.training.data import Samples, output_scale, predict
from kanrun.engine.training.data_fitting import Smoothing, data_factor, rowwise


@dataclass(frozen=True)
class Determined:
    """Of a network's unknowns: how many training points and penalty determine, and how many the points alone."""

    rank: int
    effective: float


def determined(network: Network, samples: Samples, smoothing: Smoothing) -> Determined:
    """The rank of G + P and tr((G + P)^+ G): G = J'J on the samples, P the penalty as in second-order training.

    Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, eq. 5.16.
    """
    exact = deepcopy(network).double()
    factor = rowwise(data_factor(samples, output_scale(samples, "regression")))
    gram = exact.linearise(samples.x.double())[1].scaled(factor).gram()
    whole = gram.clone()
    if len(rows := smoothing.rows(exact)):
        rows.add_gram(whole)
    values, vectors = torch.linalg.eigh(whole)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    effective = (((vectors.T @ gram) * vectors.T).sum(1)[kept] / values[kept]).sum()
    return Determined(int(kept.sum()), float(effective))


def likelier_weight(
    network: Network, samples: Samples, smoothing: Smoothing, most: float = 1e3
) -> tuple[float, float]:
    """The weight at the next step of the iteration, at most `most` times larger or smaller, and the error of new points
    that generalised cross-validation expects, relative to the training error."""
    found, values = determined(network, samples, smoothing), samples.y.numel()
    rows = smoothing.rows(network)
    rough = float(rows.times(network.get_unknowns()).square().sum()) / smoothing.weight
    factor = data_factor(samples, output_scale(samples, "regression"))
    error = float(((predict(network, samples.x) - samples.y) * factor).square().sum())
    rest = max(values - found.effective, 1.0)
    learned = max(found.effective - (found.rank - len(rows)), 1e-6)
    wanted = learned * error / (rest * max(rough, 1e-300))
    return min(max(wanted, smoothing.weight / most), smoothing.weight * most), values / rest
