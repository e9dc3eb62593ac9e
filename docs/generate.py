"""Generates pages from the tree: `python docs/generate.py [OUT]` writes docs/generated/, which git ignores.

configuration  one page for each config group: every YAML with its first comment, keys, defaults and comments
studies        experiments/README.md and experiments/*/README.md with their images
contributing   CONTRIBUTING.md
The navigation reads SUMMARY.md of each folder. Requires only PyYAML.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "generated"
GROUPS = {
    "": "The defaults of `python train.py` and `python evaluate.py`.",
    "model": "A complete model: its towers, and what joins them.",
    "model/vision": "The vision tower.",
    "model/text": "The text tower.",
    "model/projection": "The maps into the joint space.",
    "model/fusion": "The part that combines text states and image states.",
    "model/decoder": "The part that generates text.",
    "tokenizer": "From text to token ids.",
    "data": "A data set: its reader, its folder and how it is loaded.",
    "transform": "From a decoded image to the pixels of a batch.",
    "objective": "A loss of the weighted sum; several as a list: `objective=[itc,itm]`.",
    "task": "What is measured; several as a list: `task=[retrieval,matching]`.",
    "optimizer": "The optimizer.",
    "schedule": "The learning rate during the run.",
    "trainer": "Lightning's trainer: devices, precision, length.",
    "logger": "Where figures are logged, in addition to `metrics.jsonl`.",
    "callbacks": "What runs between the steps, such as checkpoints; several as a list.",
    "sweep": "How `-m` runs its jobs.",
    "experiment": "A complete recipe: files of the other groups and values of their keys.",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A key of a YAML file: its dotted name, the text of its value, and the comment after it."""

    key: str
    default: str
    comment: str


def main(out: Path = OUT) -> None:
    shutil.rmtree(out, ignore_errors=True)
    write_configuration(out / "configuration", config_files())
    write_studies(out / "studies")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](../")
    write_page(out / "contributing.md", page)


def write_page(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.rstrip() + "\n", encoding="utf-8")


# -- configuration -------------------------------------------------------------------------------------------------------


def config_files() -> dict[str, list[Path]]:
    """Every YAML by its group, those of studies (experiments/<study>/conf) included."""
    groups: dict[str, list[Path]] = {}
    for conf in (ROOT / "conf", *sorted(ROOT.glob("experiments/*/conf"))):
        for file in sorted(conf.rglob("*.yaml")):
            parent = file.parent.relative_to(conf).as_posix()
            groups.setdefault("" if parent == "." else parent, []).append(file)
    order = list(GROUPS)
    return dict(sorted(groups.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def write_configuration(out: Path, groups: dict[str, list[Path]]) -> None:
    names = {group: group.replace("/", "_") or "entry_points" for group in groups}
    summary, rows = ["- [Groups](index.md)"], []
    for group, files in groups.items():
        title = group or "Entry points"
        sections = [yaml_section(group, file) for file in files]
        page = [f"# {title}", GROUPS.get(group, ""), *sections]
        write_page(out / f"{names[group]}.md", "\n\n".join(page))
        summary.append(f"- [{title}]({names[group]}.md)")
        options = ", ".join(f"`{file.stem}`" for file in files)
        rows.append(f"| [{title}]({names[group]}.md) | {GROUPS.get(group, '')} | {options} |")
    head = [
        "# Configuration",
        "Every choice is one YAML file; `group=word` on the command line chooses it, `group.key=value` changes one value of it. "
        "A group that is a list takes several: `objective=[itc,mlm]`. These pages are generated from the files.",
        "\n".join(["| group | what it chooses | options |", "| --- | --- | --- |", *rows]),
    ]
    write_page(out / "index.md", "\n\n".join(head))
    write_page(out / "SUMMARY.md", "\n".join(summary))


def yaml_section(group: str, file: Path) -> str:
    """One YAML: a heading, its first comment, and a table of its keys."""
    text = file.read_text(encoding="utf-8")
    sentence, layout = opening_comment(text)
    parts = [f"## {file.stem}", escape_markdown(sentence)]
    if layout:
        parts.append(f"```text\n{layout}\n```")
    origin = [f"`{file.relative_to(ROOT).as_posix()}`"]
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    settings = list(yaml_settings(node, text)) if node is not None else []
    target = next((setting.default for setting in settings if setting.key == "_target_"), None)
    if target:
        origin.append(f"builds `{target}`")
    parts.append(", ".join(origin) + ".")
    rows = [
        setting for setting in settings if setting.key not in ("_target_", "_convert_") and setting.default != "_self_"
    ]
    if rows:
        lines = [f"| `{row.key}` | {inline_code(row.default)} | {escape_markdown(row.comment)} |" for row in rows]
        parts.append("\n".join(["| key | default | |", "| --- | --- | --- |", *lines]))
    return "\n\n".join(parts)


def opening_comment(text: str) -> tuple[str, str]:
    """The comment before the first key, without Hydra's `@package`: its first paragraph, and the rest unchanged."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        content = line.removeprefix("#").removeprefix(" ").rstrip()
        if not content.startswith("@package") and (content or lines):
            lines.append(content)
    end = next((n for n, line in enumerate(lines) if n and (not line or line.startswith(" "))), len(lines))
    return " ".join(lines[:end]), "\n".join(lines[end:]).strip("\n")


def yaml_settings(node: yaml.Node, text: str, path: str = "") -> Iterator[Setting]:
    """The leaves of a mapping. A list or a mapping in one line is one leaf, and so is each entry of a list over several lines."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{path}.{key.value}" if path else str(key.value)
        if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
            yield from yaml_settings(value, text, name)
        elif isinstance(value, yaml.SequenceNode) and not value.flow_style:
            for entry in value.value:
                yield Setting(key=name, default=source_text(entry, text), comment=comment_after(entry, text))
        else:
            yield Setting(key=name, default=source_text(value, text), comment=comment_after(value, text))


def last_leaf(node: yaml.Node) -> yaml.Node:
    """The last scalar or one-line collection of a block. The end mark of the block itself is after the comments that follow."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return last_leaf(last[1] if isinstance(last, tuple) else last)
    return node


def source_text(node: yaml.Node, text: str) -> str:
    return " ".join(text[node.start_mark.index : last_leaf(node).end_mark.index].split())


def comment_after(node: yaml.Node, text: str) -> str:
    """The comment at the end of the last line of the value."""
    line_end = text[last_leaf(node).end_mark.index :].partition("\n")[0]
    comment = re.match(r"\s*#\s*(.*)", line_end)
    return comment[1] if comment else ""


def inline_code(text: str) -> str:
    return f"`{text}`" if text else ""


def escape_markdown(text: str) -> str:
    """Text without Markdown or HTML syntax, for a table cell; code between backticks is not changed."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"([*_|\[\]~^])", r"\\\1", parts[index]).replace("<", "&lt;").replace("{", "&#123;")
    return "`".join(parts)


# -- studies -------------------------------------------------------------------------------------------------------------


def write_studies(out: Path) -> None:
    summary = ["- [Overview](README.md)"]
    shutil.copytree(ROOT / "experiments", out, ignore=names_to_skip)
    for page in sorted(out.glob("*/README.md")):
        title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        summary.append(f'- [{page.parent.name}]({page.parent.name}/README.md "{title}")')
    write_page(out / "SUMMARY.md", "\n".join(summary))


def names_to_skip(folder: str, names: list[str]) -> list[str]:
    """Everything except READMEs, images and the folders of READMEs; for shutil.copytree."""
    endings = (".png", ".svg", ".jpg", "README.md")
    return [name for name in names if not name.endswith(endings) and not any(Path(folder, name).rglob("README.md"))]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
