"""What a solution gets next: finer grids, more terms, and the weights of conditions and data that grow with them."""

from __future__ import annotations

from math import isfinite

from torch import Tensor

from kanrun.engine.equations.equation_policy import Ansatz, EquationPolicy, EquationStage
from kanrun.engine.equations.residuals import ResidualProblem


class ConditionWeights:
    """The weights of conditions and measured values on the next grid, from their parts of the objective on the last.

    Conditions weigh more on each grid, as long as they give way. Those that contradict each other, as where an initial
    slope is not that of a wall, never do: heavier, they would outweigh the equation and measured values. There the
    weight returns to the one before and stays. Measured values have errors, where the equation has none: they weigh
    less on each grid, as long as they have a larger part of the objective than the equation.
    """

    def __init__(self, policy: EquationPolicy, *, linear: bool = False) -> None:
        self.policy, self.data = policy, policy.data_weight
        self.least = policy.condition_weight_of_polynomials if linear else policy.condition_weight
        self.conditions = self.least
        self._part, self._stays = 0.0, False

    def follow(self, problem: ResidualProblem, unknowns: Tensor) -> None:
        """Set the weights of the next grid from the solution of `problem`."""
        policy, parts = self.policy, {"equation": 0.0, "data": 0.0, "condition": 0.0}
        for block, loss in zip(problem.blocks, problem.losses(unknowns), strict=True):
            known = block.name if block.name == "data" else block.name.split(" ")[0]
            parts[known if known in parts else "condition"] += loss
        heavy = parts["condition"] > policy.outweighed * parts["equation"]
        if heavy and 0 < self._part < parts["condition"]:
            self.conditions, self._stays = max(self.conditions / policy.growth, self.least), True
        elif not self._stays:
            self.conditions = min(self.conditions * policy.growth, policy.largest_weight)
        self._part = parts["condition"]
        if parts["data"] > parts["equation"]:
            self.data = max(self.data / policy.growth, policy.smallest_data_weight)


class SolutionGrowth:
    """What follows a grid: the next one of the schedule, then finer grids and further terms as long as they help."""

    def __init__(
        self, ansatz: Ansatz, policy: EquationPolicy, schedule: list[int | None], variables: int, whole: bool
    ) -> None:
        self.ansatz, self.policy, self.schedule = ansatz, policy, schedule
        one = variables == 1
        self.one = one and whole
        most_in_one = policy.most_intervals if whole else policy.most_intervals_in_windows
        self.enough = policy.enough if one else policy.enough_in_more
        self.most_intervals = most_in_one if one else policy.most_intervals_in_more
        self.most_unknowns = policy.most_unknowns_in_window if ansatz.form.fixed_last else policy.most_unknowns
        self.used = 0  # grids of the schedule so far, the first one apart
        #: Residuals at which a part of the range is good enough: where more did not help, and where it did.
        self.small, self.target = 0.0 if whole else policy.accepted, 0.0
        self.actions: list[str] = ["grid"]

    def next(self, found: list[EquationStage]) -> tuple[str, int | None] | None:
        """`grid` with its intervals, `terms`, or None where nothing more is worth it."""
        action = self._chosen(found)
        if action is not None:
            self.actions.append(action[0])
        return action

    def _chosen(self, found: list[EquationStage]) -> tuple[str, int | None] | None:
        last = found[-1]
        planned = self.used + 1 < len(self.schedule)
        if not isfinite(last.equation.rms):
            return None
        if last.change is not None and last.change <= self.enough and self.ansatz.grows:
            return None
        helped = len(found) < 2 or last.equation.rms <= self.policy.helpful * found[-2].equation.rms
        settled = last.change is None or last.change <= self.policy.accepted_change
        if not planned and settled and last.equation.rms <= (self.target if helped else self.small):
            return None
        if last.change is not None and settled and last.equation.rms <= self.policy.below_noise * last.data:
            return None
        order = ["grid", "terms"] if helped == (self.actions[-1] == "grid") else ["terms", "grid"]
        if not helped and not planned and len(found) > 2 and self.actions[-1] != self.actions[-2]:
            before, last_but_one = found[-3].equation.rms, found[-2].equation.rms
            if last_but_one > self.policy.helpful * before:
                return None  # neither helped
        for kind in order:
            if kind == "terms" and self._can_widen(last):
                return "terms", None
            if kind == "grid" and planned:
                self.used += 1
                return "grid", self.schedule[self.used]
            if kind == "grid" and self._can_grow(last):
                return "grid", 2 * (last.intervals or 0)
        return None

    def _can_widen(self, last: EquationStage) -> bool:
        form = last.solution.form
        more = last.unknowns * (form.terms + self.policy.terms_added) / form.terms
        most = self.policy.most_terms_in_time if form.fixed_last else self.policy.most_terms
        small = form.terms + self.policy.terms_added <= most and more <= self.most_unknowns
        return self.ansatz.widens and small and form.factors > 1

    def _can_grow(self, last: EquationStage) -> bool:
        if not self.ansatz.grows or last.intervals is None:
            return False
        if self.one and (last.change or 0.0) > self.policy.accepted_change:
            return 2 * last.unknowns <= self.policy.most_if_unsettled
        return 2 * last.intervals <= self.most_intervals and 2 * last.unknowns <= self.most_unknowns
