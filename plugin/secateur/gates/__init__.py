"""Channels that learn whether they are needed: AutoPruner."""

from secateur.gates.autopruner import AutoPruned, autoprune
from secateur.gates.gate import ChannelGate
from secateur.gates.learnt import GateEpoch, Learnt
from secateur.gates.recipe import PRESETS, GateRecipe

__all__ = ["PRESETS", "AutoPruned", "ChannelGate", "GateEpoch", "GateRecipe", "Learnt", "autoprune"]
