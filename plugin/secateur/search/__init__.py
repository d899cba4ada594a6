"""From scores and costs to a pruning plan."""

from secateur.search.budget import format_cost, parse_budget
from secateur.search.cross_layer import convolution_cost, cross_layer_plan, cross_layer_widths
from secateur.search.curves import curve_plan
from secateur.search.distillation import distilled_plan
from secateur.search.global_ranking import global_ranking_plan
from secateur.search.greedy import GreedyStep, greedy_plan
from secateur.search.published_rates import PUBLISHED_RATES, PublishedRates
from secateur.search.rates import parse_rates, rate_plan, rate_widths
from secateur.search.refine import RefineStep, refine_plan
from secateur.search.selection import allowed_widths, keep_count, next_allowed, select, ties_at_cut
from secateur.search.stages import Stage, stages_of
from secateur.search.uniform import uniform_plan

__all__ = [
    "PUBLISHED_RATES",
    "GreedyStep",
    "PublishedRates",
    "RefineStep",
    "Stage",
    "allowed_widths",
    "convolution_cost",
    "cross_layer_plan",
    "cross_layer_widths",
    "curve_plan",
    "distilled_plan",
    "format_cost",
    "global_ranking_plan",
    "greedy_plan",
    "keep_count",
    "next_allowed",
    "parse_budget",
    "parse_rates",
    "rate_plan",
    "rate_widths",
    "refine_plan",
    "select",
    "stages_of",
    "ties_at_cut",
    "uniform_plan",
]
