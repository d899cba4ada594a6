"""What a network is worth: of itself, or as a candidate of a search that is masked, not cut."""

from secateur.evaluation.accuracy import accuracy, check_labels, judged
from secateur.evaluation.candidates import CandidateWorth
from secateur.evaluation.masked import MaskedAccuracy

__all__ = ["CandidateWorth", "MaskedAccuracy", "accuracy", "check_labels", "judged"]
