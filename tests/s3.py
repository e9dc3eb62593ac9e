"""An S3 server on this machine (moto), in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "photos"


@contextmanager
def s3_server(folder: Path, bucket: str = BUCKET, prefix: str = "") -> Iterator[dict[str, str]]:
    """Serves the files of a folder in a bucket. Yields the environment variables with which s3fs reads them, at
    s3://photos/ by default."""
    import botocore.session

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
        )
        for _ in range(100):
            try:
                client.create_bucket(Bucket=bucket)
                break
            except Exception:
                time.sleep(0.2)
        for path in folder.iterdir():
            client.put_object(Bucket=bucket, Key=prefix + path.name, Body=path.read_bytes())
        yield environment
    finally:
        server.kill()
        server.wait()
