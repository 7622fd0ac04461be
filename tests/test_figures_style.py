from pathlib import Path

import numpy as np
import pytest
from fake_runs import FakeRun, load
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rescaler.errors import InputError
from rescaler.figures import accuracy_figure, save_figure, to_svg
from rescaler.figures.style import empty_figure, legend, shades


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_save_figure_goes_by_the_suffix(tmp_path: Path, suffix: str, start: bytes) -> None:
    _, epochs = load(tmp_path / "runs", FakeRun(2, [0.5, 0.6, 0.4, 0.9]))
    first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
    for path in (first, second):
        save_figure(accuracy_figure(epochs), path)
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes(), "equal figures are equal files"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", first.name, second.name}


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path, suffix: str) -> None:
    save_figure(empty_figure(r"$\frac$ of $x"), tmp_path / f"f.{suffix}")


def test_a_figure_that_cannot_be_saved_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the file of a figure must end in \.png, \.svg, \.pdf; got .*plot\.gif"):
        save_figure(Figure(), tmp_path / "plot.gif")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*file"):
        save_figure(Figure(), tmp_path / "file" / "plot.png")


def test_svg_needs_nothing_beside_itself(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, FakeRun(2, [0.9999, 1.0, 1.0, 1.0]))
    figure = accuracy_figure(epochs)
    text = to_svg(figure)
    assert text == to_svg(accuracy_figure(epochs)), "equal figures are equal texts"
    assert "<text" not in text, "letters are shapes: no font is needed"
    assert all(link.startswith("#") for link in (part.split('"')[0] for part in text.split('xlink:href="')[1:]))
    ticks = [float(label.get_text().replace("\N{MINUS SIGN}", "-")) for label in figure.axes[0].get_yticklabels()]
    assert min(ticks) > 99, "values, and no differences to one"


@pytest.mark.parametrize(("length", "columns"), [(8, 4), (60, 2), (100, 1), (300, 1)])
def test_a_legend_has_as_many_columns_as_there_is_room_for(length: int, columns: int) -> None:
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    (part,) = figure.subfigures(1, 1, squeeze=False)[0]
    legend(part, {f"{number}{'n' * length}": Patch() for number in range(8)})
    (drawn,) = part.legends
    figure.draw_without_rendering()
    lefts = {round(text.get_window_extent().x0) for text in drawn.get_texts()}
    assert len(lefts) == columns


@pytest.mark.parametrize("count", [1, 2, 4, 6, 16])
def test_shades_are_told_apart_in_grey(count: int) -> None:
    # Relative luminance (Rec. 709): it must rise from shade to shade, and stay clear of the white page.
    luminance = [np.dot([0.2126, 0.7152, 0.0722], shade[:3]) for shade in shades(count)]
    assert luminance == sorted(luminance)
    assert len(set(luminance)) == count
    assert max(luminance) < 0.8
