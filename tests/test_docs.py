"""README.md and docs/: what they link to, and every command, flag, target, parameter and file that they name, is there."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from carinspect.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

Problems = list[str]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


def without_blocks(text: str) -> str:
    return BLOCK.sub("", text)


def inline_code(text: str) -> list[str]:
    return [" ".join(code.split()) for code in INLINE.findall(without_blocks(text))]


def shell_lines(text: str) -> list[str]:
    """Lines of the shell blocks, and inline code, which may be a command."""
    blocks = [content.replace("\\\n", " ") for language, content in BLOCK.findall(text) if language == "sh"]
    return [line for block in blocks for line in block.splitlines()] + inline_code(text)


def simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command in those lines."""
    for line in shell_lines(text):
        lexer = shlex.shlex(line.replace("…", ""), posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # an apostrophe: prose, or a piece of another language
            continue
        command: list[str] = []
        for word in words:
            if set(word) <= set(";&|"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


# ---- links


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, page: Path) -> Problems:
    problems = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            problems.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            problems.append(f"{link}: no such heading")
    return problems


# ---- commands


def unknown_commands(text: str, _: Path) -> Problems:
    """`carinspect` commands and flags that its own parser does not know."""
    problems = []
    for words in simple_commands(text):
        if "carinspect" not in words[:1] or len(words) == 1:
            continue
        command: Any = typer.main.get_command(app)
        arguments = words[1:]
        while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
            name = arguments.pop(0)
            if name not in command.commands:
                problems.append(f"carinspect {name}: no such command")
                break
            command = command.commands[name]
        else:
            flags = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
            own = arguments[: arguments.index("--")] if "--" in arguments else arguments
            used = [word.split("=")[0] for word in own if word.startswith("-")]
            problems += [f"{' '.join(words)}: no flag {flag}" for flag in used if flag not in flags]
    return problems


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def unknown_targets(text: str, _: Path) -> Problems:
    problems = []
    for words in simple_commands(text):
        if words[:1] == ["make"]:
            named = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            problems += [f"make {word}: no such target" for word in named if word not in make_targets()]
    return problems


# ---- parameters


@cache
def params() -> dict[str, Any]:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    # A profile's two halves are called by their own names.
    return values | values["profiles"]["auto"]


def is_param(key: str) -> bool:
    """Whether params.yaml has `key`. As Hydra writes them, `~key` deletes a key that is there, and `+key` adds one to a section."""
    if key.startswith("+"):
        key = key.lstrip("+").split(".")[0]
    key = key.removeprefix("~")
    found: Any = params()
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?=$|[:=])")
SUFFIXES = {"py", "yaml", "json", "csv", "md", "png", "html", "onnx", "pt", "txt"}


def unknown_params(text: str, _: Path) -> Problems:
    """Keys in backticks whose section is one of params.yaml, and what `-S` sets."""
    keys = [match[1] for code in inline_code(text) if (match := KEY.match(code))]
    keys = [key for key in keys if key.split(".")[0] in params() and key.split(".")[-1] not in SUFFIXES]
    for words in simple_commands(text):
        keys += [value.partition("=")[0] for flag, value in zip(words, words[1:], strict=False) if flag == "-S"]
    return [f"{key}: not in params.yaml" for key in keys if not is_param(key)]


# ---- files


@cache
def known_files() -> tuple[set[str], set[str]]:
    """What is in git, and what the pipeline writes."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    written = set()
    for file in (Path(name) for name in listed if Path(name).name == "dvc.yaml"):
        for stage in yaml.safe_load((ROOT / file).read_text())["stages"].values():
            outs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
            folder = file.parent / stage.get("wdir", "")
            written |= {os.path.normpath(folder / (out if isinstance(out, str) else next(iter(out)))) for out in outs}
    return set(listed), written


FILE = re.compile(r"(?:src|stages|tests|docs|docker|cloud|benchmarks|examples|sweeps|metrics|data|models|reports)/[\w./-]+\.\w+")


def unknown_files(text: str, _: Path) -> Problems:
    """Paths in backticks and among the words of commands that look like a file of this project."""
    named = {code for code in inline_code(text) if FILE.fullmatch(code)}
    # What a reader's own data are called is theirs.
    named |= {word for words in simple_commands(text) for word in words if FILE.fullmatch(word) and not word.startswith("data/")}
    in_git, written = known_files()
    return [
        f"{name}: neither in git nor an output of dvc.yaml"
        for name in sorted(named)
        if name not in in_git and not any(name == out or name.startswith(f"{out}/") for out in written)
    ]


CHECKS: list[Callable[[str, Path], Problems]] = [broken_links, unknown_commands, unknown_targets, unknown_params, unknown_files]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_is_there(page: Path) -> None:
    assert [problem for check in CHECKS for problem in check(page.read_text(), page)] == []


@pytest.mark.parametrize(
    ("check", "sound", "broken", "problem"),
    [
        (broken_links, "[a](docs/training.md#out-of-memory)", "[a](docs/trainnig.md)", "docs/trainnig.md: no such file"),
        (
            broken_links,
            "[a](https://example.org/x)",
            "[a](docs/training.md#out-of-money)",
            "docs/training.md#out-of-money: no such heading",
        ),
        (
            unknown_commands,
            "```sh\ncarinspect score a --out b.csv  # it's scored\n```",
            "```sh\ncd x && carinspect scroe a\n```",
            "carinspect scroe: no such command",
        ),
        (unknown_commands, "`carinspect score a --out b`", "`carinspect score a --uot b`", "carinspect score a --uot b: no flag --uot"),
        (
            unknown_commands,
            "`carinspect store keep-states -- dvc exp run --pull`",
            "`carinspect store keep-states --pull -- dvc exp run`",
            "carinspect store keep-states --pull -- dvc exp run: no flag --pull",
        ),
        (unknown_targets, "`make job NAME=x`", "```sh\nmake \\\n  jbo NAME=x\n```", "make jbo: no such target"),
        (unknown_params, "`train.lr: 0.1` in `train.py`", "`train.rl: 0.1`", "train.rl: not in params.yaml"),
        (unknown_params, "`runtime.workers`", "`runtime.wokers`", "runtime.wokers: not in params.yaml"),
        (unknown_params, "`dvc exp run -S model.backbone=x`", "`dvc exp run -S model.spine=x`", "model.spine: not in params.yaml"),
        (
            unknown_params,
            "`dvc exp run -S '~questions.damage'`",
            "`dvc exp run -S '~questions.dent'`",
            "~questions.dent: not in params.yaml",
        ),
        (
            unknown_params,
            "`dvc exp run -S +questions.glass_ok.kind=binary`",
            "`dvc exp run -S +qestions.x=1`",
            "+qestions.x: not in params.yaml",
        ),
        (
            unknown_files,
            "```sh\npython benchmarks/score.py data/mine.csv\n```",
            "```sh\npython benchmarks/socre.py\n```",
            "benchmarks/socre.py: neither in git nor an output of dvc.yaml",
        ),
        (
            unknown_files,
            "`models/best.onnx`, `reports/split/near_duplicates.png`, `data/<name>.csv`",
            "`models/bset.onnx`",
            "models/bset.onnx: neither in git nor an output of dvc.yaml",
        ),
    ],
)
def test_each_check_sees_what_is_wrong(check: Callable[[str, Path], Problems], sound: str, broken: str, problem: str) -> None:
    page = ROOT / "README.md"
    assert check(sound, page) == []
    assert check(broken, page) == [problem]
