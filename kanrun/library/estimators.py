"""KANs as estimators of scikit-learn: `KANRegressor` and `KANClassifier`.

They fit by `kanrun.fit` and follow scikit-learn's conventions. Equal rows are merged and sorted before a fit, and a row
of weight w counts as w of them, so that weights and repeated rows, in any order, give exact_decimals the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from kanrun.config import SamplingConfig, TableTarget
from kanrun.errors import InvalidData
from kanrun.experiments.fit.tables import MIN_ROWS
from kanrun.experiments.interpret.interpretation import Interpretation, interpret
from kanrun.library.fitting import ADDITIVE, configuration, fit_target
from kanrun.study.model import Model
from kanrun.study.prediction import predicted_values
from kanrun.targets import Data, array_target, input_rows, is_frame

Array = NDArray[np.float64]


class _KANEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both estimators share; see `KANRegressor`."""

    model_: Model

    def __init__(  # noqa: PLR0913 (scikit-learn takes every setting as a keyword)
        self,
        model: str = "auto",
        *,
        hidden: Sequence[int] | None = None,
        intervals: int | Sequence[int] | str | None = None,
        degree: int | None = None,
        solver: str = "auto",
        steps: int | None = None,
        validation_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.hidden = hidden
        self.intervals = intervals
        self.degree = degree
        self.solver = solver
        self.steps = steps
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.settings = settings

    def _fit(self, X: Data, y: Data, sample_weight: Data, *, classification: bool) -> Self:
        columns, y, names = self._checked(X, y, classification)
        rows, self._several = len(y), y.ndim > 1
        weights = (
            None
            if sample_weight is None
            else _check_sample_weight(sample_weight, np.empty((rows, 1)))
        )
        columns, y, weights = _merged(columns, y, np.ones(rows) if weights is None else weights)
        x = dict(zip(names, columns.T, strict=True)) if names else columns.astype(np.float64)
        target = array_target(x, y, classification=classification, weights=weights)
        task = "classification" if classification else "regression"
        described = TableTarget("X", list(target.inputs), list(target.outputs), task)
        given = {
            "hidden": self.hidden,
            "intervals": self.intervals,
            "degree": self.degree,
            "steps": self.steps,
        }
        settings = {key: value for key, value in given.items() if value is not None} | dict(
            self.settings or {}
        )
        if self.model == "auto" and len(y) < MIN_ROWS:  # too few to leave some of them out
            settings = {"selection": "evidence", **settings}
        sampling = SamplingConfig(n_train=None, n_test=0, validation_fraction=self.validation_fraction)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(0 if seed is None else seed).randint(2**31)
        cfg = configuration(
            described, sampling, self.model, self.solver, {"seed": int(seed), **settings}
        )
        self.model_ = fit_target(cfg, target, additive=self.model == ADDITIVE)
        if classification:
            self.classes_ = np.unique(y)
        return self

    def _checked(
        self, x: Data, y: Data, classification: bool
    ) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
        """Rows of x and y after scikit-learn's rules, and the names of the columns, none for an array."""
        if _has_text(x):
            validate_data(self, x, skip_check_array=True)
            names = [str(name) for name in x.columns]
            columns = np.stack([np.asarray(x[name], dtype=object) for name in x.columns], 1)
            y = np.asarray(y)
        else:
            rule = {"y_numeric": True, "multi_output": True} if not classification else {}
            columns, y = validate_data(self, x, y, dtype=np.float64, ensure_min_samples=2, **rule)
            names = list(getattr(self, "feature_names_in_", []))
        if classification:
            check_classification_targets(y)
        return columns, y, names

    def _rows(self, x: Data) -> Array:
        """The encoded inputs (rows, inputs) of the model."""
        check_is_fitted(self)
        if _has_text(x):
            validate_data(self, x, reset=False, skip_check_array=True)
        else:
            code = self.model_.code
            names = getattr(self, "feature_names_in_", None)
            x = validate_data(self, x, reset=False, dtype=np.float64 if code is None else None)
            if names is not None:
                x = dict(zip(map(str, names), x.T, strict=True))
        return input_rows(x, self.model_.inputs, self.model_.code)[0]

    def transform(self, X: Data) -> Array:
        """The values (rows, nodes) of the last hidden layer's nodes, or of the scaled inputs where there is none."""
        rows = self._rows(X)
        network = self.model_.network
        first = next(network.parameters())
        inside = torch.as_tensor(self.model_.input_scaling.apply(rows)).to(first)
        with torch.no_grad():
            return network.activations(inside)[-2].double().cpu().numpy()

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.network.shape[-2])

    def formula_(self, output: int = 0, **options: Any) -> Interpretation:
        """The formula behind the fitted model's `output`; `options` are those of `kanrun.interpret`."""
        check_is_fitted(self)
        return interpret(self.model_, output=output, **options)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


class KANRegressor(RegressorMixin, _KANEstimator):  # type: ignore[misc]
    """Regression by `kanrun.fit`, for one output or several.

    `model` is `auto` (effects of inputs and pairs of inputs by evidence), `additive` (effects alone) or `kan`, whose
    `hidden` widths, `intervals`, `degree`, `solver`, `steps` and share of `validation` rows may be given (None: the
    defaults of the command line); `settings` has further ones by name. `random_state` is the seed.

    After `fit`, `model_` is the `kanrun.Model`, with `summary()`, `plot()` and `save()`; `formula_()` interprets it,
    and `transform` gives the values of its last hidden nodes. Columns of a DataFrame must be those of `fit` in their
    order, as everywhere in scikit-learn; columns of text become indicators of their levels.

    Examples:
        >>> import numpy as np
        >>> from kanrun import KANRegressor
        >>> x = np.linspace(-1, 1, 100)[:, None]
        >>> KANRegressor("additive").fit(x, x[:, 0] ** 2).predict([[0.5]]).round(2)
        array([0.25])
    """

    def fit(self, X: Data, y: Data, sample_weight: Data = None) -> Self:
        """Fit rows X (rows, inputs) to y (rows,) or (rows, outputs). Raises ValueError for what does not fit."""
        if y is None:
            raise InvalidData("requires y to be passed, but the target y is None.")
        return self._fit(X, y, sample_weight, classification=False)

    def predict(self, X: Data) -> Array:
        """Predictions (rows,), or (rows, outputs) where y had two dimensions."""
        rows = self._rows(X)
        values = predicted_values(self.model_, rows)
        return values if self._several else values[:, 0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KANClassifier(ClassifierMixin, _KANEstimator):  # type: ignore[misc]
    """Classification by `kanrun.fit`, of two or more classes; parameters as of `KANRegressor`.

    `classes_` are the labels in their order.

    Examples:
        >>> import numpy as np
        >>> from kanrun import KANClassifier
        >>> x = np.linspace(-1, 1, 100)[:, None]
        >>> KANClassifier("additive").fit(x, x[:, 0] > 0).predict([[-0.5], [0.5]])
        array([False,  True])
    """

    classes_: NDArray[Any]

    def fit(self, X: Data, y: Data, sample_weight: Data = None) -> Self:
        """Fit rows X (rows, inputs) to labels y (rows,). Raises ValueError for what does not fit."""
        if y is None:
            raise InvalidData("requires y to be passed, but the target y is None.")
        return self._fit(X, y, sample_weight, classification=True)

    def predict(self, X: Data) -> NDArray[Any]:
        """The most probable labels (rows,)."""
        likely = self.predict_proba(X).argmax(1)
        labels: NDArray[Any] = self.classes_[likely]
        return labels

    def predict_proba(self, X: Data) -> Array:
        """Probabilities (rows, classes) in the order of `classes_`."""
        rows = self._rows(X)
        return predicted_values(self.model_, rows)


def _has_text(x: Data) -> bool:
    """Whether `x` is a frame with columns that are not numbers."""
    return (
        is_frame(x)
        and not isinstance(x, Mapping)
        and any(np.asarray(x[c]).dtype.kind not in "biuf" for c in x.columns)
    )


def _merged(
    x: NDArray[Any], y: NDArray[Any], weights: Array
) -> tuple[NDArray[Any], NDArray[Any], Array]:
    """The different rows (x, y) in a fixed order, and the sums of their weights; rows without weight are left out."""
    kept = np.flatnonzero(weights)
    x, y, weights = x[kept], y[kept], weights[kept]
    keys = [
        np.unique(column.astype(str) if column.dtype == object else column, return_inverse=True)[1]
        for column in (*x.T, *np.reshape(y, (len(y), -1)).T)
    ]
    _, first, where = np.unique(np.stack(keys, 1), axis=0, return_index=True, return_inverse=True)
    sums = np.zeros(len(first))
    np.add.at(sums, where.ravel(), weights)
    return x[first], y[first], sums
