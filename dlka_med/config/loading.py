"""YAML to checked records and back, with errors that name the file, the line and the nearest known key."""

import difflib
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.reader import Reader

from dlka_med.config.network import Network
from dlka_med.config.record import KINDS
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.paths import did_you_mean, shown
from dlka_med.text_files import read_text

Location = tuple[str | int, ...]

NETWORKS: dict[str | int, type[BaseModel]] = {
    get_args(record.model_fields["name"].annotation)[0]: record for record in get_args(get_args(Network)[0])
}


class _Loader(yaml.SafeLoader):
    """Plain YAML data; a repeated key is an error instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                problem = "a key must be a plain value; a value with braces needs quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check one experiment.

    Args:
        path: YAML file, or a run folder, whose `config.yaml` is meant then.
        overrides: `key.of.a.value=value` strings that replace values of the file; the value is YAML.

    Raises:
        InputError: the file is missing or no YAML, or a key or value is wrong; file, line and mend are named.
    """
    path = Path(path)
    if os.path.isdir(path):
        path = path / "config.yaml"
    if not os.path.exists(path):
        raise InputError(f"there is no config file {shown(path)}{did_you_mean(path)}")
    text = read_text(path)
    try:
        tree = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader: plain data only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise InputError(f"{path}{line}: this is not valid YAML: {problem}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: this cannot be read as YAML: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of sections (name, dataset, network, ...), found {_kind(data)}")
    overridden = [_override(data, entry) for entry in overrides]
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise InputError("\n".join(_explain(path, tree, overridden, item) for item in error.errors())) from None


def checked_config(data: Mapping[str, Any], name: str) -> RunConfig:
    """The config of plain data that no file holds; `name` begins the message where it is wrong.

    Raises:
        InputError: a key or value is wrong.
    """
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        told = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise InputError(f"{name}: {told}") from None


def save_config(
    config: RunConfig, path: str | Path, reasons: Mapping[str, str] = MappingProxyType({}), head: str = ""
) -> None:
    """Write a complete YAML file, each value followed by its meaning; `load_config` reads it back equal.

    Args:
        reasons: what follows a value instead, by its dotted key.
        head: lines of comment above all.
    """
    with whole_file(path) as temporary:
        temporary.write_text(head + "".join(_lines(config, reasons)), encoding="utf-8")


def one_line(text: str) -> str:
    """Text as a comment of YAML may hold it: single blanks for white space, U+FFFD for what YAML refuses."""
    return Reader.NON_PRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


def yaml_of(value: Any) -> str:
    """Plain data as YAML in one line, in which letters of all languages stand as they are."""
    # PyYAML writes some line breaks and marks of Unicode as they are, and reads them otherwise.
    letters = json.dumps(value, ensure_ascii=False).isprintable()
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=letters)
    return text.removesuffix("...\n").strip()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, for the completion and checks of an editor."""
    return RunConfig.model_json_schema()


def _lines(record: BaseModel, reasons: Mapping[str, str], sections: tuple[str, ...] = ()) -> list[str]:
    lines, depth = [], len(sections)
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        if isinstance(value, BaseModel):
            gap = "" if depth else "\n"
            lines += [f"{gap}{'  ' * depth}{name}:\n", *_lines(value, reasons, (*sections, name))]
            continue
        plain = record.model_dump(mode="json", include={name})[name]
        said = one_line(reasons.get(".".join((*sections, name)), field.description) or "")
        comment = f"  # {said}" if said else ""
        lines.append(f"{'  ' * depth}{name}: {yaml_of(plain)}{comment}\n")
    return lines


def _override(data: dict[str, Any], entry: str) -> Location:
    key, separator, text = entry.partition("=")
    names = tuple(key.strip().split("."))
    if not separator or not all(names):
        raise InputError(f"-s {entry}: expected key=value, for example -s training.minutes=20")
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader: plain data only
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"-s {shown(entry)}: {shown(repr(text))} is not a YAML value") from error
    section = data
    for name in names[:-1]:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise InputError(f"-s {entry}: {name} is a value, not a section, so it has no key {names[-1]!r}")
    section[names[-1]] = value
    return names


def _explain(path: Path, tree: yaml.Node, overridden: list[Location], error: Any) -> str:
    # The checker counts the network's name as a part of the way to its arguments.
    location: Location = tuple(part for part in error["loc"] if part not in (*NETWORKS, *KINDS))
    if error["type"].startswith("union_tag"):
        location = (*location, "name")
    name = ".".join(str(part) for part in location)
    key, line = _find(tree, location)
    overrides = [o for o in overridden if o == location[: len(o)]]
    where = f"{path}, -s {'.'.join(str(p) for p in overrides[-1])}" if overrides else f"{path}, line {line}"
    if error["type"] == "extra_forbidden":
        known = _keys_at(error["loc"][:-1])
        nearest = _nearest(str(location[-1]), known)
        return f"{where}: unknown key {name!r}{nearest}; known here: {', '.join(known)}"
    if error["type"] in ("missing", "union_tag_not_found"):
        return f"{where}: the key {name!r} is missing"
    if error["type"] == "union_tag_invalid":
        found = error["ctx"]["tag"]
        return f"{where}: {name}: expected {' or '.join(NETWORKS)}, got {found!r}{_nearest(str(found), list(NETWORKS))}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "tuple_type":
        message = "expected a list in brackets, such as [a, b]"
    found = "" if isinstance(error["input"], dict) else f" (found {shown(repr(error['input']))})"
    if isinstance(error["input"], str) and "expected" in error.get("ctx", {}):
        found += _nearest(error["input"], error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    return f"{where}: {name or key}: {message}{found}"


def _find(node: yaml.Node, location: Location) -> tuple[str, int]:
    """Name and line of the deepest node of the file that lies on the way to `location`."""
    name, line = "the config", node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            key, node = found[0]
            name, line = str(part), key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return name, line


def _keys_at(location: Location) -> list[str]:
    record: type[BaseModel] = RunConfig
    for part in location:
        if part in NETWORKS:
            record = NETWORKS[part]
        elif field := record.model_fields.get(str(part)):
            record = next(_records_in(field.annotation), record)
    return list(record.model_fields)


def _records_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _records_in(argument)


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def _kind(data: Any) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"
