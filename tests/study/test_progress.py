"""Progress and results in wide and narrow terminals, in files, and with `-q`."""

import io
import re
from itertools import product

import pandas
import pytest
from cases import cases
from rich.console import Console

from kanrun.config import ExperimentConfig
from kanrun.monitoring import ProgressUpdate
from kanrun.runs import Claim, Note, Row
from kanrun.study import Failure, Finished, Started, Task, TaskEvent, report
from kanrun.study.progress import Reporter


def console_of(width, terminal=False):
    stream = io.StringIO()
    return stream, Console(file=stream, width=width, force_terminal=terminal, color_system=None)


def shown(events, total=1, width=80, terminal=False, **options):
    """Return what a reporter prints about events and progress of one training."""
    stream, console = console_of(width, terminal)
    with Reporter(console, total, **options) as reporter:
        for event in events:
            is_progress = isinstance(event, ProgressUpdate)
            (reporter.show_progress if is_progress else reporter.handle)(event)
    return stream.getvalue()


def training(index, *records):
    task = Task(ExperimentConfig(), index, {}, 0)
    return [TaskEvent(task, record) for record in (Started(), *records)]


def trainings(total):
    for index in range(total):
        yield from training(
            index,
            Note("solver=auto chose [lm]"),
            Note("a column is constant", warning=True),
            Row("summary", {"validation_rmse": 0.1 * (index + 1)}),
            Failure("it diverged") if index == 2 else Finished(1.0),
        )


@pytest.mark.parametrize("width, total", [*product([20, 40, 120], [1, 4])])
def test_a_terminal_gets_a_bar_that_never_wraps(width, total):
    text = shown(trainings(total), total, width, terminal=True)
    assert "━" in text
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text)
    assert max(map(len, re.split(r"[\n\r]", plain))) <= width


def test_the_bar_shows_what_runs_and_ends_at_the_whole():
    events = training(0, Finished(1.0)) + training(1, ProgressUpdate("folds", 4, 5))
    text = shown(events, 2, 120, terminal=True)
    assert "70%" in text
    assert "folds: 4 of 5" in text
    assert "100%" in shown([*events, *training(1, Finished(1.0))], 2, 120, terminal=True)


SAID = ["solver=auto chose [lm]", "warning: a column is constant"]


def test_a_file_gets_notes_and_a_line_a_training_of_several():
    assert shown(trainings(1)).splitlines() == SAID
    assert shown(trainings(4), 4).splitlines() == [
        *SAID,
        "cell 0, seed 0: done in 1.0 s, validation RMSE 0.1 (25%)",
        "cell 1, seed 0: done in 1.0 s, validation RMSE 0.2 (50%)",
        "cell 2, seed 0 failed: it diverged",
        "cell 3, seed 0: done in 1.0 s, validation RMSE 0.4 (100%)",
    ]


def test_quiet_shows_warnings_alone_and_verbose_shows_details():
    assert shown(trainings(1), terminal=True, quiet=True).split("\n")[:-1] == SAID[1:]
    detail = training(0, Note("solver lm: asked for", detail=True))
    for verbose in (False, True):
        assert ("asked for" in shown(detail, verbose=verbose)) == verbose


@pytest.mark.parametrize(
    "summary, sentence",
    cases("""
        {'model': 'kan', 'shape': '2-1-1', 'intervals': 50, 'test_rmse': 6.4e-7} | KAN [2,1,1] with 50 intervals: test RMSE 6.40e-7
        {'model': 'mlp', 'shape': '2-16-1', 'parameters': 65, 'test_accuracy': 0.98} | MLP [2,16,1] with 65 parameters: test accuracy 0.98
        {'model': 'polynomial', 'shape': '1-1', 'parameters': 11, 'validation_rmse': 0.1} | polynomial with 11 parameters: validation RMSE 0.1
        {'model': 'auto', 'shape': '4-1', 'intervals': 8, 'cv_rmse': 2.5} | automatic model [4,1] with 8 intervals: cross-validated RMSE 2.5
        {'equation': 'heat', 'rmse': 1e-9} | ''
        {} | ''
    """),  # noqa: E501
)
def test_result_of_a_training_is_one_sentence(summary, sentence):
    columns = {name: [value] for name, value in summary.items()} | {"test_rmse_unknown": [None]}
    assert report.outcome(columns) == sentence
    assert report.outcome({name: 2 * values for name, values in columns.items()}) == ""


@pytest.mark.parametrize("width", [30, 60, 200])
def test_tables_and_claims_fit_the_width(width):
    columns = {"seed": [0, 1, 2], "target": "exp_sin_square", "shape": "2-5-1"}
    columns |= {"test_rmse": [3e-7, 1e-6, None], "r2": 0.9999999, "seconds": 1.234}
    summary = pandas.DataFrame(columns | {"a_column_with_a_long_name": 1.5})
    cells = pandas.concat([summary.assign(cell=cell) for cell in (0, 1)])
    stream, console = console_of(width, terminal=True)
    for table in (summary, summary.head(1), cells):
        report.print_summary(console, table.to_dict("list"))
    claims = (
        Claim("the [error] is small", 1e-7, "at most 1e-5", True, "1e-7 .. 3e-7"),
        Claim("it is small", float("nan"), "at most 1", holds=False),
    )
    report.print_claims(console, claims)
    report.print_failures(console, [{"cell": 0, "seed": 1, "reason": "it diverged"}])
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "[error]" in text
    if width == 200:
        assert re.search(r"median +exp_sin_square +2-5-1 +6\.50e-07 +0\.9999999", text)
        for sentence in (
            "medians over 3 seeds",
            "holds  the [error] is small: measured 1.00e-07 (1e-7 .. 3e-7), bound: at most 1e-5",
            "DOES NOT HOLD  it is small: measured not a number, bound: at most 1",
        ):
            assert sentence in text


def test_progress_of_a_training_is_shown_every_few_seconds():
    seconds = [0.0]

    def parts():
        for part, done, total, at in (
            ("starts", 1, 4, 1.0),
            ("starts", 4, 4, 9.0),
            ("grid of 8", 5, 10, 18.0),
        ):
            seconds[0] = at
            yield ProgressUpdate(part, done, total, 0.25)

    text = shown(parts(), width=100, clock=lambda: seconds[0])
    assert text.splitlines() == [
        "starts: 4 of 4, best 0.25 (50%, about 11 s left)",
        "grid of 8: 5 of 10, best 0.25 (62%, about 13 s left)",
    ]
