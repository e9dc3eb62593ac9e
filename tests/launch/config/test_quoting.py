"""Texts that Hydra's grammar cannot read are quoted; what may be more than a text is not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config


@cache
def composer() -> Composer:
    return Composer(conf=conf_folder(), config_name="train")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ("data.splits.train={00000..00099}.tar", "{00000..00099}.tar"),
        ("data.splits.train=train-{000..012}.tar", "train-{000..012}.tar"),
        ("data.splits.train={0..9}", "{0..9}"),
        ("data.splits.train={a,b}.tar", "{a,b}.tar"),
        ("data.splits.train=train-[0-9].tar", "train-[0-9].tar"),
        ("data.splits.train=train-*.tar", "train-*.tar"),
        ("data.splits.train=[{0..4}.tar, extra-?.tar]", ["{0..4}.tar", "extra-?.tar"]),
        ("data.splits={train: {00000..00099}.tar}", "{00000..00099}.tar"),
        ("data.splits={train: [{0..4}.tar,b.tar], val: null}", ["{0..4}.tar", "b.tar"]),
        ("data.splits={train: '{00000..00099}.tar'}", "{00000..00099}.tar"),
        ("data.splits.train='\"{00000..00099}.tar\"'", '"{00000..00099}.tar"'),
    ],
)
def test_patterns_of_shards(splits: str, expected: str | list[str]) -> None:
    config = resolve_config(composer().compose(["data=shards", splits]), Path("run"))
    assert config["data"]["splits"] == {"train": expected, "val": None, "test": None}


@pytest.mark.parametrize(
    "text",
    [
        "runs/epoch=3-step=9.ckpt", "/data/été/x", "/数据/x", "photos (1)", "~/photos", "https://host/x?y=1&z=2", "/a#b;c!d",
        "/a{b}", "it's", "<x>", "/a (b)/c=d,e"[:10], "2017", "my folder/x",
    ],
)  # fmt: skip
def test_text_as_it_is_typed(text: str) -> None:
    (override,) = composer().parse([f"data.root={text}"])
    assert str(override.value()) == text


def test_lists_of_expressions() -> None:
    (override,) = composer().parse([r"freeze=[^model\.(vision|text)\., ^objectives]"])
    assert override.value() == [r"^model\.(vision|text)\.", "^objectives"]


@pytest.mark.parametrize(
    "line",
    [
        "data.ratios={a=1,b=2}", "data.ratios={a:1,b:2", "task=[a,b", "data.root=x]", 'name="x', "name='x", "optimizer.lr==1e-3",
        "data.splits.train={0..3}.tar,{4..5}.tar", "data.splits.train={a,b}",
    ],
)  # fmt: skip
def test_what_may_be_more_than_a_text_stays_an_error(line: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the override"):
        composer().parse([line])
