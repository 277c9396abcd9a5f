"""What the comments of a YAML file say of its values."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from dlka_med.text_files import read_text


def comments_of(path: str | Path, replaced: Iterable[str] = ()) -> dict[str, str]:
    """The comment at the end of each value's last line, by dotted key; keys without one are left out.

    Args:
        replaced: keys of other values: comments on them, on what they hold and on what holds them are left out.

    Raises:
        InputError: the file is missing.
        yaml.YAMLError: it is no YAML; `load_config` tells the user more.
    """
    text = read_text(path)
    told, gone = _told(yaml.compose(text, Loader=yaml.SafeLoader), text.splitlines(), ()), list(replaced)
    return {key: said for key, said in told if not any(_meet(key, other) for other in gone)}


def _meet(one: str, other: str) -> bool:
    """Whether two keys are the same, or one lies in the section of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _told(node: yaml.Node | None, lines: list[str], sections: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        names = (*sections, str(key.value))
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _told(value, lines, names)
            continue
        end = value.end_mark
        rest = lines[end.line][end.column :] if end.line < len(lines) else ""
        # What is written over many lines ends where the next key begins, whose comment is not its own.
        before, mark, comment = rest.partition("#")
        if mark and comment.strip() and not before.strip():
            yield ".".join(names), comment.strip()
