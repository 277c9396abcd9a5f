"""What README.md tells a reader to type, import or open exists."""

import re
import shlex
from pathlib import Path

import pytest

from dlka_med.cli import build_parser

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands():
    """The `dlka` commands of all shell blocks, as words without the first."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        for part in re.split(r"&&|;", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["dlka"]:
                yield words[1:]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_are_understood(words):
    parser, verbs = build_parser()
    assert parser.parse_args(words).verb in verbs


@pytest.mark.parametrize("source", blocks("python"), ids=lambda source: source.splitlines()[0])
def test_python_compiles_and_imports_what_exists(source):
    compile(source, "README.md", "exec")
    imports = [line for line in source.splitlines() if re.match(r"(from|import) ", line)]
    exec("\n".join(imports), {})


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert local
    assert [target for target in local if not (PROJECT / target).is_file()] == []


def test_configs_exist():
    named = set(re.findall(r"\bconfigs/[\w.-]+\.yaml", README))
    assert named
    assert [name for name in sorted(named) if not (PROJECT / name).is_file()] == []
