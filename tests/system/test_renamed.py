from __future__ import annotations

import pytest

from vlp.system.renamed import RenamedMethod, renamed_attributes


class Example:
    def describe(self) -> str:
        return "described"

    tell = RenamedMethod("describe")


def test_a_method_under_its_old_name_works_and_warns() -> None:
    with pytest.warns(FutureWarning, match=r"Example\.tell was renamed: write describe"):
        assert Example().tell() == "described"


def test_a_name_of_a_module_works_and_warns() -> None:
    attribute = renamed_attributes("vlp.old", {"Sentence": "vlp.system.errors.UserError"})
    with pytest.warns(FutureWarning, match=r"write from vlp\.system\.errors import UserError"):
        assert attribute("Sentence").__name__ == "UserError"
    with pytest.raises(AttributeError, match=r"module 'vlp\.old' has no attribute 'other'"):
        attribute("other")
