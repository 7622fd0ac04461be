"""Figures from the frames of :mod:`rescaler.results`: the paper's Figures 4 to 10, and what the paper lacks.

All share one style, are readable in grey print and to colour-blind eyes, and say what is missing. Each comparison
(network, data, schedule) is drawn apart.
"""

from rescaler.figures.accuracy import PAPER_FIGURES, accuracy_figure, paper_figure
from rescaler.figures.style import figure_format, save_figure, to_svg
from rescaler.figures.training_time import clock_figure, cost_figure, pareto_front, saving_figure

__all__ = [
    "PAPER_FIGURES", "accuracy_figure", "clock_figure", "cost_figure", "figure_format", "paper_figure", "pareto_front",
    "save_figure", "saving_figure", "to_svg",
]  # fmt: skip
