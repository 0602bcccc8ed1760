"""Tables: the column is found whatever the form, and rows that do not fit are counted."""

import csv
import gzip
import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers import table
from data_prep.readers.table import table_lines
from tests.data_prep.readers.rejection import error_message

FIELDS = st.text("가a ,;|\t\"'\n\r", max_size=8)


def read(content, kind="csv", column="text", counts=None):
    counts = Counter() if counts is None else counts
    lines = table_lines("a", io.BytesIO(content), kind, column, counts)
    return b"".join(lines).decode().split("\n")[:-1]


@given(rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=8), delimiter=st.sampled_from(",;|\t"))
def test_each_row_is_one_line(rows, delimiter):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("label", "text"), *rows])
    assert read(file.getvalue().encode()) == [text.replace("\n", "\x1e") for _, text in rows]


def test_quotation_marks_that_quote_nothing():
    content = 'id\ttext\tlabel\n1\t"great" film\t1\n2\t"not closed\t0\n3\tgood"\t1\n'
    assert read(content.encode(), "tsv") == ['"great" film', '"not closed', 'good"']


def test_a_tsv_quotes_only_if_its_first_rows_do():
    """A lone quotation mark after the sample must not join rows."""
    rows = "".join(f"{number}\ttext {number}\t0\n" for number in range(table._SAMPLE_LINES))
    content = f'id\ttext\tlabel\n{rows}a\t"never closed\t0\nb\tsay "hi"\t0\n'
    assert read(content.encode(), "tsv")[-2:] == ['"never closed', 'say "hi"']
    content = 'id\ttext\n1\t"say ""hi"" "\n2\tplain\n3\t"two\tfields"\n'
    assert read(content.encode(), "tsv") == ['say "hi" ', "plain", "two\tfields"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@given(texts=st.lists(st.text('ab",;\n \t', min_size=1), min_size=1, max_size=9))
def test_texts_of_a_single_column_may_have_several_lines(texts, kind):
    """As pandas writes them: quoted where they have a delimiter, a quotation mark or a line end."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
    writer.writerows([("text",), *((text,) for text in texts)])
    found = read(file.getvalue().encode(), kind)
    assert found == [text.replace("\n", "\x1e") for text in texts]


def test_a_single_column_whose_quotation_marks_quote_nothing():
    content = 'text\n"great" film\n"not closed\nplain\n"good"\n'
    assert read(content.encode()) == ['"great" film', '"not closed', "plain", '"good"']


def test_a_single_column_may_hold_commas():
    assert read(b"text\nfirst, second\nthird\n") == ["first, second", "third"]


def test_rows_of_another_length_are_dropped_and_counted():
    counts = Counter()
    content = b"text,label\na,1\n\nb, and c,1\nd\ne,1\n"
    assert read(content, counts=counts) == ["a", "", "", "", "e"]
    assert counts == {"rows with another number of fields": 2}


def test_invalid_utf8_reaches_the_cleaning_as_it_is():
    (line,) = table_lines("a", io.BytesIO(b"text,x\na\xff,1\n"), "csv", "text", Counter())
    assert line == b"a\xff\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("body,label\na,1\n", "has no column 'text', or several, it has body, label: name"),
        ("text,text\na,1\n", "it has text, text: name the text column with --column"),
        ("감히 최고\n왕좌\n", "a file without a row of names needs another ending"),
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_table_without_the_column_is_an_error(tmp_path, capsys, content, message, is_compressed):
    path = tmp_path / ("a.csv.gz" if is_compressed else "a.csv")
    path.write_bytes(gzip.compress(content.encode()) if is_compressed else content.encode())
    error = error_message(tmp_path, capsys, f"--input={path}")
    assert str(path) in error
    assert message in error


def test_a_table_without_a_full_row_is_an_error(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,label\na\nb\n\n")
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.csv")
    assert "none of the 2 rows is kept: 2 have another number of fields than the first row" in error


def test_a_quotation_mark_that_is_never_closed_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(table, "_MAX_ROW_CHARACTERS", 1000)
    rows = 'a,"b, b"\n' * 600 + 'a,"b\n' + "a,b\n" * 600
    (tmp_path / "a.csv").write_text(f"id,text\n{rows}")
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.csv")
    assert f"{tmp_path}/a.csv is not a valid .csv file, line " in error
    assert "is a quotation mark missing?" in error
