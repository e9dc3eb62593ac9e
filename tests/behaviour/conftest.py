from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.behaviour.documents.world import World, documented_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Where the commands of the documents run."""
    with documented_world(tmp_path_factory.mktemp("world")) as made:
        yield made
