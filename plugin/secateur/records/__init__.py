"""What the rooms exchange: score tables, channel groups and pruning plans, as plain data with JSON there and back.

None of these holds a network. A score table says how much each output channel of each layer is worth, a channel group
which channels of which layers live or die together, a pruning plan which of them are kept. They are immutable, and
everything read from a file is checked before it is believed.
"""

from secateur.records.groups import ChannelGroup, ChannelGroups, Member, Reduction, Role
from secateur.records.plan import PruningPlan, Spent
from secateur.records.scores import ScoreTable, rounded

__all__ = [
    "ChannelGroup",
    "ChannelGroups",
    "Member",
    "PruningPlan",
    "Reduction",
    "Role",
    "ScoreTable",
    "Spent",
    "rounded",
]
