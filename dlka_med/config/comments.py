"""What the comments of a YAML file say of its values."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from dlka_med.text_files import read_text


def comments_of(path: str | Path) -> dict[str, str]:
    """The comment at the end of each value's last line, by dotted key; keys without one are left out.

    Raises:
        InputError: the file is missing.
        yaml.YAMLError: it is no YAML; `load_config` tells the user more.
    """
    text = read_text(path)
    return dict(_told(yaml.compose(text, Loader=yaml.SafeLoader), text.splitlines(), ()))


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
        _, mark, comment = rest.partition("#")
        if mark and comment.strip():
            yield ".".join(names), comment.strip()
