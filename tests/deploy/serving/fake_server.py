"""`python -m tests.deploy.serving.fake_server FOLDER [key=value …]`: vlp's server over a fake engine, in a process of its own.

FOLDER/manifest.json: {"name": …, "seconds": …} of the engine, loaded again as an artifact would be.
Settings: limits, `key`, `port`, `index`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.deploy.serving.fake_engine import FakeEngine
from vlp.deploy.index.photo_index import open_index
from vlp.deploy.serving.app import create_app
from vlp.deploy.serving.limits import ServingLimits
from vlp.deploy.serving.serve import bind, run_server
from vlp.deploy.serving.server import server_config
from vlp.system.errors import UserError


def main(folder: Path, settings: dict[str, Any]) -> int:
    def load() -> tuple[Any, Any]:
        content = json.loads((folder / "manifest.json").read_text())
        if content.get("damaged"):
            raise UserError("manifest.json: damaged; copy the artifact again")
        engine = FakeEngine(**content)
        return engine, None if index is None else open_index(index, engine)

    key, port, index = settings.pop("key", None), settings.pop("port", 0), settings.pop("index", None)
    with bind("127.0.0.1", port) as listener:
        app = create_app(*load(), key, name="fake", limits=ServingLimits(**settings))
        config = server_config(app)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            return runner.run(run_server(config, listener, load, folder / "manifest.json", poll_seconds=0.1))


def setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, value if name in ("key", "index") else json.loads(value)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), dict(setting(text) for text in sys.argv[2:])))
