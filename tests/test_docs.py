"""What the documents promise: links lead somewhere, commands compose, files that are named exist."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from vlp.cli import build_parser
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.sweep.multirun import first_values

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(file for file in (ROOT / "docs").rglob("*.md") if "generated" not in file.parts)
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
PAGES = [*WRITTEN, *sorted(ROOT.glob("experiments/**/README.md"))]
COMMAND = re.compile(r"^(?:\$ )?(?:torchrun .*? )?(?:python )?(train\.py|evaluate\.py|vlp)(?= |$)(.*)")
LAUNCH_OPTIONS = {"-m", "--cfg", "job", "--max-restarts", "3"}
# commands that are answered with a sentence, because the page is about that sentence or because something is not here
REFUSED = {"train.py optimzer.lr=1e-4": "did you mean optimizer.lr"}


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def blocks(text: str, *languages: str) -> list[str]:
    return [
        body for language, body in re.findall(r"^```(\w+).*?\n(.*?)^```$", text, re.M | re.S) if language in languages
    ]


def anchors(text: str) -> set[str]:
    """Of the headings, as Python-Markdown and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    words = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"[-\s]+", "-", text) for text in words}


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages that docs/generate.py makes from the tree."""
    folder = tmp_path_factory.mktemp("docs") / "generated"
    subprocess.run([sys.executable, "docs/generate.py", str(folder)], cwd=ROOT, check=True)
    return folder


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path, generated: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", without_code(text)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if file.is_relative_to(ROOT / "docs" / "generated"):
            file = generated / file.relative_to(ROOT / "docs" / "generated")
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_the_navigation_is_complete(generated: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/]+(?:\.md|/))$", text[text.index("nav:") :], re.M))
    pages = {file.relative_to(ROOT / "docs").as_posix() for file in DOCS}
    assert {name for name in named if not name.startswith("generated/")} == pages
    assert all((generated / name.removeprefix("generated/")).exists() for name in named - pages)


def test_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:vlp|conf|tests|experiments|docs)/[\w/.-]*|\w+\.py)`", text))
    assert len(named) > 60
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


# -- commands ------------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Every command line of the pages that starts vlp: the lines of code blocks, and code within a sentence that sets a key."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for body in blocks(text, "bash", "console") for line in body.replace("\\\n", " ").splitlines()]
        spans = [span for span in re.findall(r"`([^`\n]+)`", text) if "=" in span and "…" not in span]
        for line in (*lines, *spans):
            if hit := COMMAND.match(line):
                words = shlex.split(hit[2], comments=True)
                found[shlex.join([hit[1], *words])] = None
    return list(found)


@cache
def composer(name: str) -> Composer:
    return Composer(conf=conf_folder(), config_name=name)


def compose(name: str, words: list[str]) -> None:
    """Words of `train` or `evaluate`; of a sweep, the first value of each key."""
    assert {word for word in words if "=" not in word} <= LAUNCH_OPTIONS
    composer(name).compose(first_values(composer(name).parse([word for word in words if "=" in word])))


def start(program: str, words: list[str]) -> None:
    if program == "vlp" and words[:1] not in (["train"], ["evaluate"]):
        options, rest = build_parser().parse_known_args(words)
        assert all("=" in word for word in rest)
        data = [[*getattr(options, "overrides", []), *rest]]
        data += [shlex.split(text) for name in ("against", "evaluation") for text in getattr(options, name, [])]
        for overrides in data:
            compose("train", overrides)
    else:
        name = words[0] if program == "vlp" else program.removesuffix(".py")
        compose(name, words[1:] if program == "vlp" else words)


@pytest.mark.parametrize("command", commands())
def test_commands_parse_and_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(command)
    if command in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[command]):
            start(program, words)
    else:
        start(program, words)


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 50
    assert set(REFUSED) <= set(commands())


# -- CONTRIBUTING --------------------------------------------------------------------------------------------------------


def test_the_glossary_is_complete_and_in_one_line_each() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("## Glossary") : text.index("## Words")]
    terms = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.M)[2:]
    names = [name for name, _ in terms]
    assert len(names) == len(set(names)) >= 30
    assert all(len(meaning) < 160 for _, meaning in terms)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_words_that_are_avoided(page: Path) -> None:
    avoided = r"\b(told|bare|quiet|apart|whole|anew|settled?|twin|utils?|to the bit|goes on)\b"
    text = page.read_text(encoding="utf-8").partition("\n## Words\n")[0]
    assert re.findall(avoided, without_code(text)) == []


def examples() -> dict[str, str]:
    """File name → content, of the examples in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r'^```(?:python|yaml) title="([^"]+)"\n(.*?)^```$', text, re.M | re.S))


def test_each_example_is_a_module_a_yaml_and_a_test() -> None:
    files = examples()
    modules = {name: body for name, body in files.items() if name.startswith("vlp/")}
    assert len(modules) == 4
    targets = {yaml.safe_load(body)["_target_"] for name, body in files.items() if name.startswith("conf/")}
    for name, body in modules.items():
        (made,) = [node.name for node in ast.parse(body).body if isinstance(node, ast.ClassDef)]
        path = Path(name)
        assert f"{'.'.join(path.with_suffix('').parts)}.{made}" in targets
        assert Path("tests", *path.parts[1:-1], f"test_{path.name}").as_posix() in files
    assert len(files) == 3 * len(modules)


# -- pages that are made -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module  # its dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_every_yaml_has_a_section(generated: Path) -> None:
    pages = "\n".join(file.read_text(encoding="utf-8") for file in (generated / "configuration").glob("*.md"))
    files = [*conf_folder().rglob("*.yaml"), *ROOT.glob("experiments/*/conf/**/*.yaml")]
    assert files
    assert [file for file in files if f"`{file.relative_to(ROOT).as_posix()}`" not in pages] == []


def test_keys_defaults_and_comments_of_a_yaml(generator: ModuleType) -> None:
    text = (
        "# @package tasks.x\n# First line\n# goes further.\n#\n#   root/a.json\n"
        "defaults:\n  - vision: small # a tower\n  - _self_\n\n_target_: vlp.X\nname: '# no comment' # a comment\n"
        "inner:\n  rate: 1e-3  # per step\n  list: [1, 2] # both\nlast: null\n"
    )
    assert generator.opening_comment(text) == ("First line goes further.", "  root/a.json")
    settings = generator.yaml_settings(yaml.compose(text), text)
    assert [(setting.key, setting.default, setting.comment) for setting in settings] == [
        ("defaults", "vision: small", "a tower"),
        ("defaults", "_self_", ""),
        ("_target_", "vlp.X", ""),
        ("name", "'# no comment'", "a comment"),
        ("inner.rate", "1e-3", "per step"),
        ("inner.list", "[1, 2]", "both"),
        ("last", "null", ""),
    ]
