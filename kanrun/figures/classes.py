"""Curves of a classifier's probabilities on rows that it was not trained on."""

from __future__ import annotations

from typing import Any

import pandas
from matplotlib.figure import Figure

from kanrun.figures.panels import grid_of_panels
from kanrun.figures.style import BLACK, CYCLE, first_seed, number, shorten, styled

#: Groups of rows with similar probabilities, whose mean is compared with the observed frequency.
BINS = 10
CHANCE: dict[str, Any] = {"color": BLACK, "lw": 0.8, "ls": ":"}
SQUARE = 3.1


@styled
def class_curves(held_out: pandas.DataFrame) -> Figure:
    """Draw ROC, precision-recall and calibration curves of the first seed's held-out rows.

    `held_out` has the columns seed, truth:<output> and probability:<class>. Of two classes the
    second is drawn, of more the first few against all others. Areas under the curves are named.
    """
    from sklearn.calibration import calibration_curve  # which takes half a second
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

    table = first_seed(held_out)
    truth = next(table[name].astype(str) for name in table if str(name).startswith("truth:"))
    classes = [name for name in table if str(name).startswith("probability:")]
    figure, ((roc, recall, calibration),) = grid_of_panels(1, 3, SQUARE)
    for colour, name in zip(CYCLE, classes[1:] if len(classes) == 2 else classes, strict=False):
        label = str(name).removeprefix("probability:")
        hit, likely = truth == label, table[name]
        false, right, _ = roc_curve(hit, likely)
        precision, found, _ = precision_recall_curve(hit, likely)
        observed, middle = calibration_curve(hit, likely, n_bins=BINS, strategy="quantile")
        area = number(float(auc(false, right)))
        roc.plot(false, right, color=colour, label=f"{shorten(label)}, area {area}")
        mean = number(float(average_precision_score(hit, likely)))
        recall.plot(found, precision, color=colour, label=f"mean {mean}")
        calibration.plot(middle, observed, "o-", color=colour, ms=3)
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], **CHANCE)
    roc.set(xlabel="false positives", ylabel="true positives")
    recall.set(xlabel="recall", ylabel="precision", ylim=(0, 1.03))
    calibration.set(xlabel="predicted probability", ylabel="observed frequency")
    for axes in (roc, recall):
        axes.legend(loc="lower right" if axes is roc else "lower left")
    return figure
