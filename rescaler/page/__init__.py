"""One self-contained page about some runs, for a reader who has neither the runs nor the network."""

from datetime import UTC, datetime

import jinja2
from pandas import DataFrame

from rescaler.page.content import TONES, between, grouped, sections
from rescaler.record import version
from rescaler.results import MARGIN


def render(runs: DataFrame, epochs: DataFrame, *, margin: float = MARGIN) -> str:
    """The page as HTML; figures and styles are in it, scripts there are none.

    Runs of different networks, data or schedules come in sections of their own.

    Args:
        runs: as :func:`rescaler.results.load_runs` or :func:`rescaler.results.read_at` gave them.
        epochs: theirs, from :func:`rescaler.results.load_epochs`.
        margin: accuracy that may be lost and still counts as preserved, as a fraction.
    """
    parts = sections(runs, epochs, margin=margin)
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("rescaler.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["grouped"] = grouped
    return templates.get_template("page.html").render(
        title=", ".join(runs["name"].unique()),
        sections=parts,
        between=between(parts),
        tones=TONES,
        margin_points=100 * margin,
        written=datetime.now(UTC),
        version=version(),
    )
