"""Numbers and names as people read them."""

import pytest

from vlp.system.suggest import did_you_mean, nearest_option
from vlp.system.units import printable, readable_bytes, readable_duration


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (19_336_861_798, "19.3 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert readable_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (119.9, "119.9 s"), (7199, "120 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert readable_duration(seconds) == text


def test_control_characters_are_shown() -> None:
    assert printable("a\x1b[2Jb\u202e") == r"a\x1b[2Jb\u202e"
    assert printable("abcdef", 4) == "abc…"


def test_a_key_is_found_by_its_last_part() -> None:
    known = ["optimizer.lr", "data.batch_size", "seed"]
    assert did_you_mean("lr", known) == " did you mean optimizer.lr?"
    assert did_you_mean("nothing", known) == ""


def test_an_option_is_found_by_its_beginning() -> None:
    assert nearest_option("sgl", ["siglip", "itc"]) == " did you mean siglip?"
    assert nearest_option("mini", ["minilm_l6_v2_pretrained", "bert"]) == " did you mean minilm_l6_v2_pretrained?"
    assert nearest_option("zzz", ["siglip"]) == ""
