"""ImageNet's lists of names in their forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.data.issues import DataError
from vlp.datasets.common.class_lists import read_class_list

NAMES = {"n01440764": "tench", "n01443537": "great white shark"}
README = """ImageNet-A
Some words about n01440764 and others.

n01440764 tench
n01443537 great white shark\x20
"""


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn01443537 great white shark, white shark\n"),
        ("README.txt", README),
        ("names.json", json.dumps(NAMES)),
        ("index.json", '{"1": ["n01443537", "great_white_shark"], "0": ["n01440764", "tench"]}'),
    ],
)
def test_each_form_gives_the_names_in_order(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    assert list(read_class_list(tmp_path / file).items()) == list(NAMES.items())


@pytest.mark.parametrize(
    ("file", "content"), [("a.txt", "tench\n"), ("a.json", "[1]"), ("b.json", '{"a": ["n1", "x"]}')]
)
def test_other_files_are_refused(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match="expected"):
        read_class_list(tmp_path / file)
