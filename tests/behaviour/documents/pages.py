"""Commands, Python and YAML that README.md, docs/, CONTRIBUTING.md and the READMEs of the studies show, as they show them.

A command is a line of a ```bash block, a line after `$ ` of a ```console block, or code in a sentence or table that begins with a
program's name and has arguments; `…` marks code that is not complete. A comment in the Markdown, which no page shows, says that a
command cannot run and why. It holds for this command on all pages, with `…` for all that begin with these words:

    <!-- not run: `wandb sync …`: needs an account -->
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(file for file in (ROOT / "docs").rglob("*.md") if "generated" not in file.parts),
    *sorted((ROOT / "experiments").rglob("README.md")),
)
PROGRAMS = r"(?:\w+=\S+ )*(?:python|vlp|make|torchrun|wandb|pip|pre-commit|source)(?= )"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: `([^`]+)`: (.+?) -->")


@dataclass(frozen=True)
class Command:
    """One line for a shell.  pages: where it is shown.  output: what a console block shows below it.  reason: why it is not run."""

    text: str
    pages: tuple[str, ...]
    output: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Block:
    """A fenced block.  where: page and line.  title: the file that it is, if it has one."""

    where: str
    language: str
    title: str
    body: str


def blocks(file: Path) -> list[Block]:
    text = file.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match[2])
        line = text.count("\n", 0, match.start()) + 1
        page = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        found.append(Block(f"{page.as_posix()}:{line}", match[1], title[1] if title else "", match[3]))
    return found


def spans(file: Path) -> list[str]:
    """Code within sentences; one that is broken over two lines is one."""
    text = FENCE.sub("", NOT_RUN.sub("", file.read_text(encoding="utf-8")))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def lines(file: Path) -> list[tuple[str, str | None]]:
    """Command lines of a page, and what a console block shows as their output."""
    found: list[tuple[str, str | None]] = []
    for block in blocks(file):
        if block.language == "bash":
            joined = block.body.replace("\\\n", " ")
            found += [(line, None) for line in joined.splitlines() if line.strip() and not line.startswith("#")]
        elif block.language == "console":
            for part in re.split(r"^\$ ", block.body, flags=re.M)[1:]:
                line, _, output = part.partition("\n")
                found.append((line, output))
    found += [(code, None) for code in spans(file) if re.match(PROGRAMS, code) and "…" not in code]
    return found


def is_marked(text: str, words: str) -> bool:
    return text.startswith(words.rstrip("…").rstrip()) if words.endswith("…") else text == words


def commands() -> list[Command]:
    """Each distinct command once, without its comment."""
    pages: dict[str, list[str]] = {}
    outputs: dict[str, str | None] = {}
    reasons: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    for file in PAGES:
        refused += NOT_RUN.findall(file.read_text(encoding="utf-8"))
        for line, output in lines(file):
            text = re.sub(r"\s+# .*$", "", line).strip()
            pages.setdefault(text, []).append(file.relative_to(ROOT).as_posix())
            outputs[text] = outputs.get(text) or output
    for words, reason in refused:
        reasons |= {text: reason for text in pages if is_marked(text, words)}
    return [Command(text, tuple(where), outputs[text], reasons.get(text)) for text, where in pages.items()]
