"""The typed configuration: what Hydra composes is checked against these dataclasses and handed on as them.

A group with several kinds (targets, models, solvers) has one dataclass per kind, told apart by `kind`; see `registry`
for how each is declared, and `rules` for those of its fields. Nothing here imports torch.
"""

from __future__ import annotations

from kanrun.config.equations import EquationConfig as EquationConfig
from kanrun.config.equations import SolveConfig as SolveConfig
from kanrun.config.experiments import BenchConfig as BenchConfig
from kanrun.config.experiments import CompareMLPConfig as CompareMLPConfig
from kanrun.config.experiments import ContinualConfig as ContinualConfig
from kanrun.config.experiments import CurvesConfig as CurvesConfig
from kanrun.config.experiments import ExecutorConfig as ExecutorConfig
from kanrun.config.experiments import ExperimentConfig as ExperimentConfig
from kanrun.config.experiments import ExtendGridConfig as ExtendGridConfig
from kanrun.config.experiments import FitConfig as FitConfig
from kanrun.config.experiments import InterpretConfig as InterpretConfig
from kanrun.config.models import AutoConfig as AutoConfig
from kanrun.config.models import BezierConfig as BezierConfig
from kanrun.config.models import BSplineConfig as BSplineConfig
from kanrun.config.models import KANConfig as KANConfig
from kanrun.config.models import MLPConfig as MLPConfig
from kanrun.config.models import PolynomialConfig as PolynomialConfig
from kanrun.config.registry import CANDIDATES as CANDIDATES
from kanrun.config.registry import EXPERIMENTS as EXPERIMENTS
from kanrun.config.registry import GROUPS as GROUPS
from kanrun.config.registry import MODELS as MODELS
from kanrun.config.registry import SOLVERS as SOLVERS
from kanrun.config.registry import TARGETS as TARGETS
from kanrun.config.registry import candidate as candidate
from kanrun.config.registry import experiment as experiment
from kanrun.config.registry import model as model
from kanrun.config.registry import solver as solver
from kanrun.config.registry import target as target
from kanrun.config.rules import MISSING as MISSING
from kanrun.config.rules import check as check
from kanrun.config.rules import setting as setting
from kanrun.config.solvers import AdamSolver as AdamSolver
from kanrun.config.solvers import AutoSolver as AutoSolver
from kanrun.config.solvers import LBFGSSolver as LBFGSSolver
from kanrun.config.solvers import LMSolver as LMSolver
from kanrun.config.targets import BundledTarget as BundledTarget
from kanrun.config.targets import ExpressionTarget as ExpressionTarget
from kanrun.config.targets import FeynmanTarget as FeynmanTarget
from kanrun.config.targets import GaussianPeaksTarget as GaussianPeaksTarget
from kanrun.config.targets import NamedTarget as NamedTarget
from kanrun.config.targets import NistTarget as NistTarget
from kanrun.config.targets import PointsTarget as PointsTarget
from kanrun.config.targets import SamplingConfig as SamplingConfig
from kanrun.config.targets import SpecialTarget as SpecialTarget
from kanrun.config.targets import TableTarget as TableTarget
