"""The options, and the files of deploy/ that start the command elsewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from vlp.cli import build_parser
from vlp.deploy.serving.command import limits_from
from vlp.deploy.serving.limits import ServingLimits
from vlp.system.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
UNIT = ROOT / "deploy" / "vlp-serve.service"


def test_defaults_are_those_of_the_limits() -> None:
    assert limits_from(build_parser().parse_args(["serve", "artifact"])) == ServingLimits()
    for option, value in (
        ("--max-megabytes", "-1"),
        ("--batch", "0"),
        ("--seconds", "nan"),
        ("--max-megabytes", "inf"),
    ):
        with pytest.raises(UserError, match=f"^{option} {value}: give a number above 0"):
            limits_from(build_parser().parse_args(["serve", "artifact", option, value]))


def test_options_become_limits() -> None:
    options = [
        "--queue",
        "99",
        "--batch",
        "7",
        "--items",
        "9",
        "--max-megabytes",
        "2.5",
        "--max-megapixels",
        "1",
        "--seconds",
        "3",
    ]
    limits = limits_from(build_parser().parse_args(["serve", "artifact", *options]))
    assert (limits.queue, limits.batch, limits.items, limits.seconds) == (99, 7, 9, 3.0)
    assert (limits.body_bytes, limits.pixels) == (2_621_440, 1_000_000)


def test_no_option_takes_a_key() -> None:
    assert not [
        name for name in vars(build_parser().parse_args(["serve", "artifact"])) if "key" in name and name != "key_env"
    ]


def test_the_image_starts_the_command() -> None:
    found = re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    python, _, module, *words = json.loads(found[1])
    assert (python, module) == ("python", "vlp.cli")
    options = build_parser().parse_args(words)
    assert (str(options.folder), options.host, options.port) == ("/artifact", "0.0.0.0", 8000)


def test_the_image_has_what_the_extra_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["optional-dependencies"]["serve"]:
        assert f'"{requirement.partition(";")[0]}"' in DOCKERFILE
    for source in re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE):
        assert (ROOT / source).exists()
    instructions = re.findall(r"^([A-Z]+) ", re.sub(r"\\\n", " ", DOCKERFILE), re.MULTILINE)
    known = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    assert instructions[0] == "FROM"
    assert set(instructions) <= known
    assert instructions.index("USER") < instructions.index("ENTRYPOINT")  # not as root


def test_the_unit_starts_the_command() -> None:
    found = re.search(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert found is not None
    _, *words = shlex.split(found[1])
    assert build_parser().parse_args(words).host == "0.0.0.0"
    assert "VLP_KEY" not in found[1]


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/vlp/bin/vlp", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert not [line for line in done.stderr.splitlines() if UNIT.name in line], done.stderr
