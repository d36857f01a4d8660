"""Training: objective, solvers behind one interface, grids, the loop."""

from kanrun.engine.training.data import (
    Errors,
    Samples,
    Task,
    TrainingData,
    baseline_error,
    output_scale,
    predict,
)
from kanrun.engine.training.data_fitting import DataFitting, LevenbergMarquardt, Smoothing
from kanrun.engine.training.first_order import Adam, Objective
from kanrun.engine.training.grid_stages import GridTransfer, Snapshot, Stage, TrainingState
from kanrun.engine.training.lbfgs import LBFGS
from kanrun.engine.training.loop import Event, Trained, fit, train
from kanrun.engine.training.plan import Plan, TrainingPolicy, Work, choose_solver
from kanrun.engine.training.solver_run import Solver, Step, make_solver
