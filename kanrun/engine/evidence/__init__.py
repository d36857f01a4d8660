"""Models whose smoothness follows from the evidence: effects of single inputs and of pairs, fitted in closed form."""

from kanrun.engine.evidence.assembly import blended, network_of
from kanrun.engine.evidence.basis import ReducedBasis
from kanrun.engine.evidence.design import Design, Terms
from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.evidence.members import TableFit, all_logits, fit_classes, fit_numbers
