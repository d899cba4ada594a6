"""How each figure is drawn; apart from the catalogue, which can be read without matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from matplotlib.figure import Figure

from secateur_cli.figures import accuracy_plots, stability_plots, widths_plot
from secateur_cli.figures.order import Found

DRAWINGS: Mapping[str, Callable[[Found], Figure]] = MappingProxyType(
    {
        "rank-stability": stability_plots.ranks_plot,
        "di-stability": stability_plots.information_plot,
        "accuracy-against-delta": accuracy_plots.delta_plot,
        "accuracy-against-rho": accuracy_plots.rho_plot,
        "criteria-over-ratios": accuracy_plots.criteria_plot,
        "allocations": accuracy_plots.allocations_plot,
        "selection-variants": accuracy_plots.variants_plot,
        "widths": widths_plot.widths_plot,
        "frozen-shares": accuracy_plots.frozen_plot,
    }
)
"""Each figure's name, and what draws what was found for it."""
