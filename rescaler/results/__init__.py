"""Results as data frames: runs, epochs, the paper's tables, differences with their intervals.

>>> runs = load_runs("runs")
>>> epochs = load_epochs(runs)
>>> rows = table(runs, epochs)   # one row a run
>>> seeds = over_seeds(rows)     # means, spread, difference to the target with its 95 % interval
>>> table2(seeds)                # beside the paper's numbers
"""

import functools

from rescaler.results.columns import select
from rescaler.results.frames import load_epochs, load_runs, read_at
from rescaler.results.paper import paper_table
from rescaler.results.tables import (
    MARGIN,
    Cost,
    add_column,
    cost,
    headings,
    is_baseline,
    network_label,
    order,
    over_seeds,
    table,
    time_saved,
    time_unit,
)

__all__ = [
    "MARGIN", "Cost", "add_column", "cost", "headings", "is_baseline", "load_epochs", "load_runs", "network_label",
    "order", "over_seeds", "paper_table", "read_at", "select", "table", "table2", "table3", "table4", "time_saved",
    "time_unit",
]  # fmt: skip

table2 = functools.partial(paper_table, 2)
table3 = functools.partial(paper_table, 3)
table4 = functools.partial(paper_table, 4)
