"""What a network costs, as a function of the widths of its channel groups."""

from secateur.cost.layers import LayerRecord, record_layers
from secateur.cost.macs import MacsCost
from secateur.cost.parameters import ParameterCost

__all__ = ["LayerRecord", "MacsCost", "ParameterCost", "record_layers"]
