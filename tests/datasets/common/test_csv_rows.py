"""Rows of CSV and TSV files, and what a stray quote does to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlp.data.issues import DataError, Faults
from vlp.datasets.common.csv_rows import csv_rows

HEADER = "image,caption,split\n"


def read(path: Path, text: str, *, collect: bool = False, delimiter: str = ",") -> tuple[list[list[str]], list[str]]:
    """The values of all rows with the number of their line, and the messages of the faults without the file's name."""
    path.write_bytes(text.encode())
    faults = Faults(collect=collect)
    rows = [
        [location.rpartition(" ")[2], *row.values()] for location, row in csv_rows(path, faults, delimiter=delimiter)
    ]
    return rows, [example.removeprefix(f"{path}, ") for issue in faults.issues.values() for example in issue.examples]


@pytest.mark.parametrize(
    ("text", "message", "rows"),
    [
        (  # the quoted value ends with the next quote, in another row
            'img/0.png,"big dog,train\nimg/1.png,cat",train\nimg/2.png,plain,train\n',
            "line 2: the quote that opens here closes on line 3, after rows of the table; remove it",
            [["3", "img/1.png", 'cat"', "train"], ["4", "img/2.png", "plain", "train"]],
        ),
        (  # many rows
            'a.jpg,"big dog,train\nb.jpg,p,train\nc.jpg,q,train\nd.jpg,cat",train\n',
            "line 2: the quote that opens here closes on line 5",
            [["3", "b.jpg", "p", "train"], ["4", "c.jpg", "q", "train"], ["5", "d.jpg", 'cat"', "train"]],
        ),
        (  # in the last column
            'a.jpg,dog,"train\nb.jpg,cat,train"\nc.jpg,x,val\n',
            "line 2: the quote that opens here closes on line 3",
            [["3", "b.jpg", "cat", 'train"'], ["4", "c.jpg", "x", "val"]],
        ),
        (  # up to a caption that is quoted rightly
            '\na.jpg,"big,train\nb.jpg,"cat, x",train\nc.jpg,x,val\n',
            "line 3: the quote that opens here closes on line 4 and is followed by text",
            [["4", "b.jpg", "cat, x", "train"], ["5", "c.jpg", "x", "val"]],
        ),
        ('a.jpg,x,val\nb.jpg,"y,val\nc.jpg,z,val\n', "line 3: the quote that opens here is never closed",
         [["2", "a.jpg", "x", "val"], ["4", "c.jpg", "z", "val"]]),
        ('a.jpg,"big" dog,train\n', "line 2: the quote that opens here is followed by text", []),
        ("a.jpg,x,train,y\n", "line 2: more values than columns", []),
        (f'a.jpg,"{"y" * 140_000},train\nb.jpg,x,val\n', "line 2: the value here is longer than 131072 letters",
         [["3", "b.jpg", "x", "val"]]),
    ],
)  # fmt: skip
def test_a_stray_quote_is_a_fault_of_its_own_line_and_takes_no_row_with_it(
    tmp_path: Path, text: str, message: str, rows: list[list[str]]
) -> None:
    path = tmp_path / "t.csv"
    found, messages = read(path, HEADER + text, collect=True)
    assert found == rows
    assert len(messages) == 1
    assert messages[0].startswith(message)
    with pytest.raises(DataError, match=message):
        read(path, HEADER + text)


def test_a_quoted_value_may_go_over_several_lines(tmp_path: Path) -> None:
    text = HEADER + 'a.jpg,"a dog, brown,\non a beach",train\r\nb.jpg,"say ""hi""",val\nc.jpg,5" disk,val\n'
    rows = [["2", "a.jpg", "a dog, brown,\non a beach", "train"], ["4", "b.jpg", 'say "hi"', "val"]]
    assert read(tmp_path / "t.csv", text) == ([*rows, ["5", "c.jpg", '5" disk', "val"]], [])


def test_a_header_names_each_column_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(DataError, match="line 1: the header names 'caption' more than once; rename one of them"):
        read(path, "image,caption,split,caption\na.jpg,x,train,y\n")
    with pytest.raises(DataError, match="line 2: the header names 'image' more than once"):
        read(path, "\nimage\timage\n", delimiter="\t")
    with pytest.raises(DataError, match="line 1: the quote that opens here closes on line 3"):
        read(path, 'image,"caption,split\na.jpg,x,train\nb.jpg,y",train\n', collect=True)
    spreadsheet = "image,caption,split,,\na.jpg,x,train,,\n"  # columns without a name and without values
    assert read(path, spreadsheet)[0][0][:4] == ["2", "a.jpg", "x", "train"]


def test_a_short_row_lacks_its_last_columns(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", HEADER + "a.jpg,x\n") == ([["2", "a.jpg", "x"]], [])
