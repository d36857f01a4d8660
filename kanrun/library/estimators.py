"""Estimators of scikit-learn: `KANRegressor` and `KANClassifier`.

Both train the models of `kanrun.fit`. Before a fit, equal rows are merged into one row with the sum
of their weights, and the rows are sorted. A row of weight 2 therefore gives exactly the same model
as the row given twice, and the order of the rows does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
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
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from kanrun.errors import InvalidData
from kanrun.experiments.fit.tables import MIN_ROWS
from kanrun.experiments.interpret.interpretation import Interpretation, interpret
from kanrun.library import configure_data, fit_target
from kanrun.model.model import Model
from kanrun.model.trained import in_numpy, predicted_values
from kanrun.points import Array, Family, predicted_classes
from kanrun.targets.table_targets import Data, array_target, as_numbers, input_rows, is_frame

#: Parameters that the method `fit` handles itself. All other parameters are passed to `kanrun.fit`
#: as settings of the same name.
_OTHERS = ("model", "solver", "random_state", "class_weight", "threshold", "family", "offset")


@dataclass(eq=False, repr=False)
class _KANEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base class of both estimators; see `KANRegressor`."""

    model: str = "auto"
    _: KW_ONLY
    hidden: Sequence[int] | None = None
    intervals: int | Sequence[int] | str | None = None
    degree: int | None = None
    pairs: bool | None = None
    selection: str | None = None
    folds: int | None = None
    extrapolation: str | None = None
    bounds: Sequence[float] | None = None
    monotone: Mapping[str, str] | None = None
    solver: str | None = None
    steps: int | None = None
    n_starts: int | None = None
    smoothness_weight: float | str | None = None
    validation_fraction: float = 0.2
    random_state: int | np.random.RandomState | None = 0

    def fit(self, X: Data, y: Data, sample_weight: Data = None) -> Self:
        """Fit the model.

        Args:
            X: Inputs, shape (rows, inputs).
            y: Outputs, shape (rows,) or (rows, outputs), or labels, shape (rows,).
            sample_weight: Weights, shape (rows,); a row of weight 2 counts as two rows.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If the data or a setting are invalid.
        """
        if y is None:
            raise InvalidData("requires y to be passed, but the target y is None.")
        classification = isinstance(self, ClassifierMixin)
        columns, y, names = self._checked(X, y, classification)
        weights = np.ones(len(y))
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, np.empty((len(y), 1)))
        if classification:
            weights = weights * compute_sample_weight(getattr(self, "class_weight", None), y)
        self._several = y.ndim > 1
        # Merge equal rows, in a fixed order.
        kept = np.flatnonzero(weights)
        columns = columns[kept]
        y = y[kept]
        series = enumerate((*columns.T, *np.reshape(y, (len(y), -1)).T))
        keys = pd.DataFrame({i: c.astype(str) if c.dtype == object else c for i, c in series})
        number = keys.groupby(list(keys), dropna=False).ngroup().to_numpy()
        _, rows = np.unique(number, return_index=True)
        columns = columns[rows]
        y = y[rows]
        weights = np.bincount(number, weights[kept]).astype(np.float64)
        x = dict(zip(names, columns.T, strict=True)) if names else columns.astype(np.float64)
        parameters = self.get_params(deep=False)
        described = {key: parameters[key] for key in ("family", "offset") if key in parameters}
        target = array_target(x, y, classification=classification, weights=weights, **described)
        settings = {
            k: value for k, value in parameters.items() if k not in _OTHERS and value is not None
        }
        # There are too few rows for cross-validation.
        if self.model == "auto" and len(y) < MIN_ROWS:
            settings = {"selection": "evidence", **settings}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(0 if seed is None else seed).randint(2**31)
        cfg = configure_data(target, self.model, self.solver, seed=int(seed), **settings)
        self.model_: Model = fit_target(cfg, target)
        if classification:
            self.classes_: NDArray[Any] = np.unique(y)
        return self

    def _checked(
        self, x: Data, y: Data, classification: bool
    ) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
        """Validate x and y by scikit-learn's rules.

        Returns:
            Inputs (rows, inputs), outputs or labels, and the names of the columns ([] for arrays).
        """
        if _has_text(x):
            validate_data(self, x, skip_check_array=True)
            names = x.columns
            columns = np.stack([np.asarray(x[name], dtype=object) for name in names], 1)
            y = np.asarray(y)
        else:
            rule: dict[str, Any] = {"ensure_min_samples": 2, "ensure_all_finite": "allow-nan"}
            rule |= {} if classification else {"y_numeric": True, "multi_output": True}
            columns, y = validate_data(self, x, y, dtype=np.float64, **rule)
            names = getattr(self, "feature_names_in_", ())
        if classification:
            check_classification_targets(y)
        return columns, y, list(map(str, names))

    def _rows(self, x: Data) -> Array:
        """Validate x, and encode it as the model's inputs, shape (rows, inputs)."""
        check_is_fitted(self)
        if _has_text(x):
            validate_data(self, x, reset=False, skip_check_array=True)
        else:
            code = self.model_.code
            names = getattr(self, "feature_names_in_", None)
            dtype, finite = (np.float64, True) if code is None else (None, "allow-nan")
            x = validate_data(self, x, reset=False, dtype=dtype, ensure_all_finite=finite)
            if names is not None:
                x = dict(zip(map(str, names), x.T, strict=True))
        return input_rows(x, self.model_.inputs, self.model_.code)[0]

    def transform(self, X: Data) -> Array:
        """Return the activations of the last hidden layer.

        Args:
            X: Inputs, shape (rows, inputs).

        Returns:
            Activations of shape (rows, nodes); without hidden layers, the scaled inputs.
        """
        rows = self._rows(X)
        network = self.model_.network
        first = next(network.parameters())
        inside = torch.as_tensor(self.model_.input_scaling.apply(rows)).to(first)
        with torch.no_grad():
            return in_numpy(network.activations(inside)[-2])

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.network.shape[-2])

    def formula_(self, output: int = 0, **options: Any) -> Interpretation:
        """Search for the formula of an output; see `kanrun.interpret`.

        Args:
            output: Index of the output.
            **options: Options of `kanrun.interpret`.

        Returns:
            The formula, its error on held-out points, and the outcome of the search.
        """
        check_is_fitted(self)
        return interpret(self.model_, output=output, **options)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.allow_nan = True
        return tags


@dataclass(eq=False, repr=False)
class KANRegressor(RegressorMixin, _KANEstimator):  # type: ignore[misc]
    """Regression by `kanrun.fit`, for one output or several, as an estimator of scikit-learn.

    If a setting is None, the default of the command line is used. `fit` raises an error for a
    setting that the chosen model does not have. The columns of a DataFrame must have the same order
    in `fit` and `predict`. A text column becomes one indicator per level.

    Args:
        model: `auto`, `additive` (`auto` without interactions), `kan`, `mlp` or another model of
            `kanrun fit`.
        hidden: Number of nodes of each hidden layer (`kan` and `mlp`).
        intervals: Number of grid intervals, or a list of them for finer and finer grids (`kan`).
        degree: Degree of the splines or polynomials.
        pairs: Whether pairs of inputs may interact (`auto`).
        selection: Criterion by which the model is selected, such as `evidence` (`auto`).
        folds: Number of folds of the cross-validation (`auto`).
        extrapolation: Rule by which predictions continue outside the training range, such as
            `linear` or `constant`.
        bounds: Smallest and largest possible prediction (`auto`).
        monotone: Names of inputs with the direction of their effect, `increasing` or `decreasing`,
            such as `{"x0": "increasing"}` (`auto`).
        solver: `auto`, `lm`, `lbfgs` or `adam`; the models `auto` and `additive` have no solver.
        steps: Number of steps of the solver on each grid.
        n_starts: Number of random starts of the solver.
        smoothness_weight: Weight of the smoothness penalty.
        validation_fraction: Fraction of the rows that are held out for validation when a network is
            trained, in [0, 1).
        random_state: Seed of the training.
        family: `gaussian`, `poisson` (counts), `gamma` (positive numbers) or `binomial` (fractions)
            (`auto` and `additive`).
        offset: Name of the input with the exposures, to which the mean of counts or positive
            numbers is proportional; `x0` is the first column of an array.

    Attributes:
        model_: The fitted `kanrun.Model`, with `summary()`, `plot()`, `save()` and more.

    Examples:
        >>> import numpy as np
        >>> from kanrun import KANRegressor
        >>> x = np.linspace(-1, 1, 100)[:, None]
        >>> KANRegressor("additive").fit(x, x[:, 0] ** 2).predict([[0.5]]).round(2)
        array([0.25])
    """

    family: str = "gaussian"
    offset: str | None = None

    def score(self, X: Data, y: Data, sample_weight: Data = None) -> float:
        """Return R^2, or D^2 (the fraction of the deviance explained) for a non-gaussian `family`.

        Args:
            X: Inputs, shape (rows, inputs).
            y: True outputs, shape (rows,) or (rows, outputs).
            sample_weight: Weights, shape (rows,).

        Returns:
            The score, at most 1. D^2 is NaN if `y` is constant.
        """
        if self.family == "gaussian":
            return float(super().score(X, y, sample_weight))
        truth = np.reshape(as_numbers(y, "y"), (-1, 1))
        predicted = self.predict(X)[:, None]
        explained = Family(self.family).explained(truth, predicted, sample_weight)
        return np.nan if explained is None else explained

    def predict(self, X: Data) -> Array:
        """Predict the outputs.

        Args:
            X: Inputs, shape (rows, inputs).

        Returns:
            Predictions of shape (rows,), or (rows, outputs) if `y` had two dimensions in `fit`.
        """
        rows = self._rows(X)  # comes first, because it checks that the model is fitted
        values = predicted_values(self.model_, rows)
        return values if self._several else values[:, 0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


@dataclass(eq=False, repr=False)
class KANClassifier(ClassifierMixin, _KANEstimator):  # type: ignore[misc]
    """Classification by `kanrun.fit` into two or more classes, as an estimator of scikit-learn.

    The other parameters are those of `KANRegressor`.

    Args:
        class_weight: For each label, the factor that multiplies the weights of its rows. With
            `balanced`, the factors are inversely proportional to the frequencies of the labels.
        threshold: For two classes, the second is predicted if its probability exceeds this value.

    Attributes:
        model_: The fitted `kanrun.Model`.
        classes_: Labels in ascending order.

    Examples:
        >>> import numpy as np
        >>> from kanrun import KANClassifier
        >>> x = np.linspace(-1, 1, 100)[:, None]
        >>> KANClassifier("additive").fit(x, x[:, 0] > 0).predict([[-0.5], [0.5]])
        array([False,  True])
    """

    class_weight: Mapping[Any, float] | str | None = None
    threshold: float = 0.5

    def predict(self, X: Data) -> NDArray[Any]:
        """Predict the most probable label; with two classes, the label chosen by `threshold`.

        Args:
            X: Inputs, shape (rows, inputs).

        Returns:
            Labels, shape (rows,).
        """
        # Comes first, because it checks that the model is fitted.
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[predicted_classes(probabilities, self.threshold)]
        return labels

    def predict_proba(self, X: Data) -> Array:
        """Predict class probabilities.

        Args:
            X: Inputs, shape (rows, inputs).

        Returns:
            Probabilities of shape (rows, classes), in the order of `classes_`.
        """
        rows = self._rows(X)
        return predicted_values(self.model_, rows)


def _has_text(x: Data) -> bool:
    """Return whether `x` is a DataFrame with a column that is not numeric."""
    return (
        is_frame(x)
        and not isinstance(x, Mapping)
        and any(np.asarray(x[c]).dtype.kind not in "biuf" for c in x.columns)
    )
