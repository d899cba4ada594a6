"""A layer as a regression: the rows that it reads, the outputs that it should make of them, and the weights that do."""

from secateur.regression.equations import NormalEquations, Rows, Solution, regression, rows_that_fit, warn_of_few_rows
from secateur.regression.few_rows import FewRows
from secateur.regression.layer_rows import Layout, columns_of, layout_of, reason_against, weight_rows, write_weight
from secateur.regression.reading import Samples, rows_of, sample_outputs
from secateur.regression.readings import readings_of, row_readings_of
from secateur.regression.replay import Replay
from secateur.regression.targets import LEFT_OUT, At, Target, targets_of

__all__ = [
    "LEFT_OUT",
    "At",
    "FewRows",
    "Layout",
    "NormalEquations",
    "Replay",
    "Rows",
    "Samples",
    "Solution",
    "Target",
    "columns_of",
    "layout_of",
    "readings_of",
    "reason_against",
    "regression",
    "row_readings_of",
    "rows_of",
    "rows_that_fit",
    "sample_outputs",
    "targets_of",
    "warn_of_few_rows",
    "weight_rows",
    "write_weight",
]
