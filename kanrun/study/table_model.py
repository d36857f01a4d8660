"""The model of a table that `model=auto` gives: candidates fitted by evidence, stacked, and made one KAN.

Beside the stack of straight lines, effects and pairs over scores of the inputs stands the linear model in the user's
own units, and where the output is one number, the stack for the transformed output. What predicts left-out rows best
is taken, so that the answer is not worse than the linear model by more than chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.special import log_softmax, softmax

from kanrun.engine.evidence import EvidencePolicy, TableFit, fit_classes, fit_numbers, network_of
from kanrun.engine.networks import KAN
from kanrun.engine.training import predict
from kanrun.targets import PiecewiseScaling, Points, PowerTransform, ScorePolicy, input_scores, output_map


@dataclass(frozen=True)
class TablePolicy:
    """Constants of the automatic model; `pairs` and `clip` are settings of `model=auto`."""

    evidence: EvidencePolicy = field(default_factory=EvidencePolicy)
    scores: ScorePolicy = field(default_factory=ScorePolicy)
    pairs: bool = True
    clip: bool = True

    def of_candidates(self, *names: str) -> TablePolicy:
        """The policy with these candidates alone."""
        return replace(self, evidence=replace(self.evidence, candidates=names))


@dataclass(frozen=True, eq=False)
class TableModel:
    """A fitted table: the network over scores, the maps to and from the user's units, and where it comes from.

    `chosen` names what was taken: `stack`, `linear` or `transformed`. `left_out` (rows, outputs) are predictions of the
    training rows in the user's units (logits for classes), each without the row itself but with the same variances.
    """

    network: KAN
    inputs: PiecewiseScaling
    outputs: PiecewiseScaling | None
    fit: TableFit
    chosen: str
    left_out: ndarray

    def raw(self, x: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows outputs"]:
        """The network's outputs: logits, or outputs before the way back to the user's units."""
        return predict(self.network, torch.as_tensor(self.inputs.apply(x))).double().numpy()

    def values(self, x: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows outputs"]:
        """Predictions in the user's units; probabilities for classes."""
        raw = self.raw(x)
        return np.asarray(softmax(raw, 1)) if self.outputs is None else self.outputs.invert(raw)

    def clipped(self, x: Float[ndarray, "rows inputs"]) -> float:
        """The share of rows whose prediction was held at an end of the allowed range."""
        if self.outputs is None or not len(x):
            return 0.0
        raw, ends = self.raw(x), np.array([[v[0], v[-1]] for v in self.outputs.values])
        return float(np.any((raw < ends[:, 0]) | (raw > ends[:, 1]), axis=1).mean())


@dataclass(frozen=True, eq=False)
class _Candidate:
    name: str
    inputs: PiecewiseScaling
    outputs: PiecewiseScaling | None
    fit: TableFit
    left_out: ndarray
    loss: float


def fit_table(points: Points, classes: int | None, policy: TablePolicy) -> TableModel:
    """The model of these training rows; `classes` is how many classes y numbers, None for numbers."""
    candidates = _of_classes(points, classes, policy) if classes else _of_numbers(points, policy)
    best = min(candidates, key=lambda one: one.loss)
    fit = best.fit
    network = network_of(
        fit.terms, fit.design, fit.functions, fit.noise if not classes else CLASS_NOISE, policy.evidence,
        split=classes == 2,
    )  # fmt: skip
    return TableModel(network, best.inputs, best.outputs, fit, best.name, best.left_out)


CLASS_NOISE = 0.3  # in logits, beside which a hidden node of a classifier is small


def _stack(policy: TablePolicy) -> TablePolicy:
    return policy if policy.pairs else policy.of_candidates("linear", "additive")


def _of_numbers(points: Points, policy: TablePolicy) -> list[_Candidate]:
    x, y = points.x, points.y
    scores, straight = input_scores(x, policy.scores), input_scores(x, policy.scores, straight=True)
    candidates = []
    for name, inputs, kinds in (
        ("stack", scores, _stack(policy)),
        ("linear", straight, policy.of_candidates("linear")),
    ):
        fit = fit_numbers(inputs.apply(x), y, kinds.evidence)
        outputs = output_map(y, None, fit.left_out - y, policy.scores, clip=policy.clip)
        left_out = outputs.invert(fit.left_out)
        candidates.append(_Candidate(name, inputs, outputs, fit, left_out, _loss(left_out, y)))
    transform = PowerTransform.of(y[:, 0]) if y.shape[1] == 1 else None
    if transform is not None and abs(transform.power - 1) > _PLAIN_POWER:
        t = transform.apply(y)
        fit = fit_numbers(scores.apply(x), t, _stack(policy).evidence)
        outputs = output_map(y, transform, (t - fit.left_out)[:, 0], policy.scores, clip=policy.clip)
        left_out = outputs.invert(fit.left_out)
        candidates.append(_Candidate("transformed", scores, outputs, fit, left_out, _loss(left_out, y)))
    return candidates


_PLAIN_POWER = 0.15  # so near to 1 the transform changes nothing


def _loss(predicted: ndarray, y: ndarray) -> float:
    spread = y.var(0)
    return float((((predicted - y) ** 2).mean(0) / np.where(spread > 0, spread, 1.0)).mean())


def _of_classes(points: Points, classes: int, policy: TablePolicy) -> list[_Candidate]:
    x, labels = points.x, points.y[:, 0].astype(np.intp)
    candidates = []
    for name, straight, kinds in (("stack", False, _stack(policy)), ("linear", True, policy.of_candidates("linear"))):
        inputs = input_scores(x, policy.scores, straight=straight)
        fit = fit_classes(inputs.apply(x), labels, classes, kinds.evidence)
        logits = all_logits(fit.left_out)
        loss = float(-log_softmax(logits, 1)[np.arange(len(labels)), labels].mean())
        candidates.append(_Candidate(name, inputs, None, fit, logits, loss))
    return candidates


def all_logits(logits: ndarray) -> ndarray:
    """One logit for each class: the one of two classes is split."""
    return np.concatenate([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


def member_weights(model: TableModel) -> Sequence[tuple[str, float]]:
    """The members of the stack and their weights."""
    return [(member.name, float(w)) for member, w in zip(model.fit.members, model.fit.weights, strict=True)]
