"""Training: objective, solvers behind one interface, grid schedules, the loop."""

from kanrun.engine.splines.differences import penalty_order
from kanrun.engine.training.chain import Chain, Pause, Reached, Stage
from kanrun.engine.training.data import Errors, Samples, Task, TrainingData, measure, output_size, predict, rmse
from kanrun.engine.training.data_fitting import DataFitting, FittingPolicy, LevenbergMarquardt
from kanrun.engine.training.first_order import Adam, AdamOptions, Objective
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.loop import Done, Event, Trained, fit, train
from kanrun.engine.training.penalty import Smoothing, penalty, smoothness_rows
from kanrun.engine.training.plan import FEW_STARTS, STARTS, STEPS, WIDE, Plan, SolverName, Work, choose_solver
from kanrun.engine.training.solvers import Solver, make_solver
from kanrun.engine.training.stepping import Step

__all__ = [
    "FEW_STARTS",
    "LBFGS",
    "STARTS",
    "STEPS",
    "WIDE",
    "Adam",
    "AdamOptions",
    "Chain",
    "DataFitting",
    "Done",
    "Errors",
    "Event",
    "FittingPolicy",
    "LevenbergMarquardt",
    "Objective",
    "Pause",
    "Plan",
    "Reached",
    "Samples",
    "Smoothing",
    "Solver",
    "SolverName",
    "Stage",
    "Step",
    "Task",
    "Trained",
    "TrainingData",
    "Work",
    "choose_solver",
    "fit",
    "make_solver",
    "measure",
    "output_size",
    "penalty",
    "penalty_order",
    "predict",
    "rmse",
    "smoothness_rows",
    "train",
]
