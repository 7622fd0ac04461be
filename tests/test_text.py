import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console

import rescaler
from rescaler.text import TextTable, percent

TABLE = TextTable("Heading", ("a", "b|c", "of"), [["long name", "1", "x"], ["x", "", "why"]], ["a note"], ("of",))


def test_words_are_aligned_to_the_left_and_numbers_to_the_right() -> None:
    assert str(TABLE) == "Heading\n\na          b|c  of\nlong name    1  x\nx               why\n\na note"
    assert str(TextTable("Heading", ("a",), [["x"]])) == "Heading\n\na\nx", "without notes"


def test_a_percent_sign_stands_apart() -> None:
    assert (percent(0.1818), percent(0.5925, 2), percent(-0.5)) == ("18.2 %", "59.25 %", "-50.0 %")


def test_markdown_escapes_bars() -> None:
    assert TABLE.markdown() == (
        "### Heading\n\n| a | b\\|c | of |\n| :--- | ---: | :--- |\n| long name | 1 | x |\n| x |  | why |\n\na note\n"
    )


def test_latex_escapes_what_it_reads_as_commands() -> None:
    latex = TextTable("A & B", ("a_b", "%"), [["x~", "−1 ± 2"]], ["100 %"]).latex()
    assert latex.startswith("% 100 %\n")
    assert r"\begin{tabular}{lr}" in latex
    assert r"\caption{A \& B}" in latex
    assert r"a\_b & \% \\" in latex
    assert r"$-$1 $\pm$ 2" in latex
    named = TextTable(r"$\frac$ {a}^_~", ("a",), [["b"]]).latex()
    assert r"\caption{\$\textbackslash{}frac\$ \{a\}\^{}\_$\sim$}" in named


STATUS = TextTable("Heading", ("Network", "Status"), [["Resized at epoch 17", "[b] no space left"]], words=["Status"])


def printed(*, terminal: bool) -> list[str]:
    stream = io.StringIO()
    STATUS.print(Console(file=stream, width=30, force_terminal=terminal, color_system=None))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_narrow_terminal_wraps_cells_but_not_names() -> None:
    gap, head, row = " " * 21, "Network              Status", "Resized at epoch 17  [b] no"
    assert printed(terminal=True) == ["Heading", head, row, f"{gap}space", f"{gap}left", ""]


def test_a_file_has_whole_lines() -> None:
    assert printed(terminal=False) == [*str(STATUS).splitlines(), ""]


def test_text_and_markdown_need_the_standard_library_alone() -> None:
    code = "from rescaler.text import TextTable as T; t = T('h', ('a',), [['x']]); print(t); t.markdown()"
    command = [sys.executable, "-S", "-c", code]  # -S: without site-packages
    root = Path(rescaler.__file__).parent.parent
    assert subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout == "h\n\na\nx\n"
