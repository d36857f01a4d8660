"""Training: objective, solvers behind one interface, grid schedules, the loop."""

from kanrun.engine.splines.differences import penalty_order
from kanrun.engine.training.data import (
    Errors,
    Samples,
    Task,
    TrainingData,
    baseline_error,
    measure,
    output_scale,
    predict,
    rmse,
)
from kanrun.engine.training.data_fitting import DataFitting, LevenbergMarquardt
from kanrun.engine.training.first_order import Adam, AdamOptions, Objective
from kanrun.engine.training.grid_stages import GridTraining, GridTransfer, Snapshot, Stage, TrainingState
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.loop import Event, Trained, fit, train
from kanrun.engine.training.penalty import Smoothing, penalty, smoothness_rows
from kanrun.engine.training.plan import FEW_STARTS, STARTS, WIDE, Plan, Work, choose_solver
from kanrun.engine.training.policy import (
    FittingPolicy,
    GridPolicy,
    MultistartPolicy,
    PenaltyPolicy,
    TrainingPolicy,
    WidthPolicy,
)
from kanrun.engine.training.solver_run import Step
from kanrun.engine.training.solvers import Solver, make_solver

__all__ = [
    "FEW_STARTS",
    "LBFGS",
    "STARTS",
    "WIDE",
    "Adam",
    "AdamOptions",
    "DataFitting",
    "Errors",
    "Event",
    "FittingPolicy",
    "GridPolicy",
    "GridTraining",
    "GridTransfer",
    "LevenbergMarquardt",
    "MultistartPolicy",
    "Objective",
    "PenaltyPolicy",
    "Plan",
    "Samples",
    "Smoothing",
    "Snapshot",
    "Solver",
    "Stage",
    "Step",
    "Task",
    "Trained",
    "TrainingData",
    "TrainingPolicy",
    "TrainingState",
    "WidthPolicy",
    "Work",
    "baseline_error",
    "choose_solver",
    "fit",
    "make_solver",
    "measure",
    "output_scale",
    "penalty",
    "penalty_order",
    "predict",
    "rmse",
    "smoothness_rows",
    "train",
]
