"""Progress and results in wide and narrow terminals, in files, and with `-q`."""

import io
import re

import pandas
import pytest
from rich.console import Console

from kanrun.config import ExperimentConfig
from kanrun.monitoring import ProgressUpdate
from kanrun.runs import Claim, Note, Row
from kanrun.study import Failure, Finished, Started, Task, TaskEvent, report
from kanrun.study.progress import Reporter

CFG = ExperimentConfig()
TASK = Task(CFG, 0, {}, 0)


def shown(events, total=1, width=80, terminal=False, quiet=False):
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    with Reporter(console, total, quiet) as reporter:
        for event in events:
            reporter.handle(event)
    return stream.getvalue()


def reporting(**options):
    stream = io.StringIO()
    return stream, Reporter(Console(file=stream, width=100), 1, **options)


def trainings(total):
    for index in range(total):
        task = Task(CFG, index, {}, 0)
        yield TaskEvent(task, Started())
        yield TaskEvent(task, Note("solver=auto chose [lm]"))
        yield TaskEvent(task, Note("a column is constant", warning=True))
        yield TaskEvent(task, Row("summary", {"validation_rmse": 0.1 * (index + 1)}))
        yield TaskEvent(task, Failure("it diverged") if index == 2 else Finished(1.0))


@pytest.mark.parametrize("width", [20, 40, 120])
@pytest.mark.parametrize("total", [1, 4])
def test_a_terminal_gets_a_bar_that_never_wraps(width, total):
    text = shown(trainings(total), total, width, terminal=True)
    assert "━" in text
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text)
    assert max(len(line) for part in plain.split("\n") for line in part.split("\r")) <= width


def test_the_bar_shows_what_runs_and_ends_at_the_whole():
    second = Task(CFG, 1, {}, 0)
    events = [TaskEvent(TASK, Started()), TaskEvent(TASK, Finished(1.0))]
    events += [TaskEvent(second, Started()), TaskEvent(second, ProgressUpdate("folds", 4, 5))]
    text = shown(events, 2, 120, terminal=True)
    assert "70%" in text
    assert "folds: 4 of 5" in text
    assert "100%" in shown([*events, TaskEvent(second, Finished(1.0))], 2, 120, terminal=True)


def test_a_file_gets_notes_and_a_line_a_training_of_several():
    said = ["solver=auto chose [lm]", "warning: a column is constant"]
    assert shown(trainings(1)).splitlines() == said
    assert shown(trainings(4), 4).splitlines() == [
        *said,
        "cell 0, seed 0: done in 1.0 s, validation RMSE 0.1 (25%)",
        "cell 1, seed 0: done in 1.0 s, validation RMSE 0.2 (50%)",
        "cell 2, seed 0 failed: it diverged",
        "cell 3, seed 0: done in 1.0 s, validation RMSE 0.4 (100%)",
    ]


def test_quiet_shows_warnings_and_failures_only():
    text = shown(trainings(1), terminal=True, quiet=True)
    assert text.strip() == "warning: a column is constant"


@pytest.mark.parametrize(
    "summary, sentence",
    [
        (
            {"model": "kan", "shape": "2-1-1", "intervals": 50, "test_rmse": 6.4e-7},
            "KAN [2,1,1] with 50 intervals: test RMSE 6.40e-7",
        ),
        (
            {"model": "mlp", "shape": "2-16-1", "parameters": 65, "test_accuracy": 0.98},
            "MLP [2,16,1] with 65 parameters: test accuracy 0.98",
        ),
        (
            {"model": "polynomial", "shape": "1-1", "parameters": 11, "validation_rmse": 0.1},
            "polynomial with 11 parameters: validation RMSE 0.1",
        ),
        (
            {"model": "auto", "shape": "4-1", "intervals": 8, "cv_rmse": 2.5},
            "automatic model [4,1] with 8 intervals: cross-validated RMSE 2.5",
        ),
        ({"equation": "heat", "rmse": 1e-9}, ""),
        ({}, ""),
    ],
)
def test_result_of_a_training_is_one_sentence(summary, sentence):
    columns = {name: [value] for name, value in summary.items()} | {"test_rmse_unknown": [None]}
    assert report.outcome(columns) == sentence
    assert report.outcome({name: 2 * values for name, values in columns.items()}) == ""


@pytest.mark.parametrize("width", [30, 60, 200])
def test_tables_and_claims_fit_the_width(width):
    seeds = {
        "seed": [0, 1, 2],
        "target": "exp_sin_square",
        "shape": "2-5-1",
        "test_rmse": [3e-7, 1e-6, None],
    }
    summary = pandas.DataFrame(
        {**seeds, "r2": 0.9999999, "a_column_with_a_long_name": 1.5, "seconds": 1.234}
    )
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    for table in (
        summary,
        summary.head(1),
        pandas.concat([summary.assign(cell=cell) for cell in (0, 1)]),
    ):
        report.print_summary(console, table.to_dict("list"))
    report.print_claims(
        console, [Claim("the [error] is small", 1e-7, "at most 1e-5", True, "1e-7 .. 3e-7")]
    )
    report.print_claims(console, [Claim("it is small", float("nan"), "at most 1", holds=False)])
    report.print_failures(console, [{"cell": 0, "seed": 1, "reason": "it diverged"}])
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "test_rmse" in text
    assert "[error]" in text
    if width == 200:
        assert re.search(r"median +exp_sin_square +2-5-1 +6\.50e-07 +0\.9999999", text)
        assert "medians over 3 seeds" in text
        assert (
            "holds  the [error] is small: measured 1.00e-07 (1e-7 .. 3e-7), bound: at most 1e-5"
            in text
        )
        assert "DOES NOT HOLD  it is small: measured not a number, bound: at most 1" in text


def test_progress_of_a_training_is_shown_every_few_seconds():
    seconds = [0.0]
    stream, reporter = reporting(clock=lambda: seconds[0])
    with reporter:
        parts = [("starts", 1, 4, 1.0), ("starts", 4, 4, 9.0), ("grid of 8", 5, 10, 18.0)]
        for part, done, total, at in parts:
            seconds[0] = at
            reporter.show_progress(ProgressUpdate(part, done, total, 0.25))
    assert stream.getvalue().splitlines() == [
        "starts: 4 of 4, best 0.25 (50%, about 11 s left)",
        "grid of 8: 5 of 10, best 0.25 (62%, about 13 s left)",
    ]


def test_details_are_shown_to_those_who_ask():
    for verbose in (False, True):
        stream, reporter = reporting(verbose=verbose)
        reporter.handle(TaskEvent(TASK, Note("solver lm: asked for", detail=True)))
        assert ("asked for" in stream.getvalue()) == verbose
