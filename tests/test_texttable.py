from rescaler.texttable import TextTable

TABLE = TextTable("Heading", ("a", "b|c"), [["long name", "1"], ["x", ""]], ["a note"])


def test_columns_are_aligned() -> None:
    assert str(TABLE) == "Heading\n\na          b|c\nlong name    1\nx\n\na note"


def test_markdown_escapes_bars() -> None:
    assert TABLE.markdown() == (
        "### Heading\n\n| a | b\\|c |\n| :--- | ---: |\n| long name | 1 |\n| x |  |\n\na note\n"
    )
