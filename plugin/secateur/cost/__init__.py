"""What a network costs, as a function of the widths of its channel groups."""

from secateur.cost.by_name import COSTS, cost_model
from secateur.cost.layers import LayerRecord, record_layers
from secateur.cost.macs import MacsCost
from secateur.cost.parameters import ParameterCost
from secateur.cost.published import flops2_cost, hrank_cost, hrank_parameters, thop_cost
from secateur.cost.stored_bytes import ByteCost
from secateur.cost.terms import TermCost

__all__ = [
    "COSTS",
    "ByteCost",
    "LayerRecord",
    "MacsCost",
    "ParameterCost",
    "TermCost",
    "cost_model",
    "flops2_cost",
    "hrank_cost",
    "hrank_parameters",
    "record_layers",
    "thop_cost",
]
