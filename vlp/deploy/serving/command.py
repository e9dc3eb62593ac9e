"""`vlp serve FOLDER`: an artifact, and the photos of an index, over HTTP and on a page."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from vlp.system.errors import UserError

DEFAULTS = {  # of ServingLimits, which is not imported to print help
    "queue": 256, "batch": 32, "items": 256, "max-megabytes": 20.0, "max-megapixels": 64.0, "seconds": 30.0,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "SIGTERM finishes what has been accepted and exits with 0; SIGHUP, or another artifact under the same path, takes the new "
        "one in without a pause. Exit code 2: the command, the artifact or the index is wrong, or the port is taken."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an artifact that vlp export has written")
    parser.add_argument(
        "--index", type=Path, metavar="DIR", help="photos to search: an index that vlp index has written"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen at; any but the loopback needs a key (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 = any free one, which is printed (%(default)s)")
    parser.add_argument(
        "--key-env",
        default="VLP_KEY",
        metavar="NAME",
        help="the environment variable with the key that requests must bring as Authorization: Bearer KEY (%(default)s)",
    )
    parser.add_argument("--name", help="of the model in requests and answers (the folder's name)")
    parser.add_argument("--threads", type=int, metavar="N", help="of one call of the model (all cores)")
    parser.add_argument(
        "--queue", type=int, default=DEFAULTS["queue"], metavar="N", help="items that may wait; then 429 (%(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=DEFAULTS["batch"], metavar="N", help="items computed together (%(default)s)"
    )
    parser.add_argument(
        "--items", type=int, default=DEFAULTS["items"], metavar="N", help="texts and photos of a request (%(default)s)"
    )
    parser.add_argument(
        "--max-megabytes", type=float, default=DEFAULTS["max-megabytes"], metavar="N", help="of a request (%(default)s)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=DEFAULTS["max-megapixels"], metavar="N", help="of a photo (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=DEFAULTS["seconds"], metavar="N", help="of a request, then 504 (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    for name, package in (
        ("fastapi", "fastapi"),
        ("uvicorn", "uvicorn"),
        ("httptools", "httptools"),
        ("orjson", "orjson"),
    ):
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(f"vlp serve needs {package}, which is not installed: pip install 'vlp[serve]'") from error
    from vlp.deploy.serving.serve import serve

    return serve(
        options.folder,
        index=options.index,
        host=options.host,
        port=options.port,
        key_variable=options.key_env,
        name=options.name,
        threads=options.threads,
        limits=limits_from(options),
    )


def limits_from(options: argparse.Namespace) -> Any:
    """Raises UserError."""
    from vlp.deploy.serving.limits import ServingLimits

    for name in DEFAULTS:
        if not 0 < (value := getattr(options, name.replace("-", "_"))) < math.inf:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    body = int(options.max_megabytes * (1 << 20))
    return ServingLimits(
        queue=options.queue,
        batch=options.batch,
        items=options.items,
        body_bytes=body,
        bodies_bytes=max(ServingLimits.bodies_bytes, 4 * body),
        pixels=int(options.max_megapixels * 1e6),
        seconds=options.seconds,
    )
