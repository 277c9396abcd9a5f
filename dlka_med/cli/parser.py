"""Command lines to options, with errors of one line that name what was probably meant."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from typing import Any

OVERRIDES: dict[str, Any] = {"dest": "overrides", "action": "append", "default": [], "metavar": "KEY=VALUE"}


class Once(argparse.Action):
    """Keeps the value of an option; a second, other one is an error instead of taking its place."""

    given = False

    def __call__(self, parser, namespace, values, option_string=None):
        if self.given and (before := getattr(namespace, self.dest)) != values:
            raise argparse.ArgumentError(self, f"it is given twice, {_told(before)} and {_told(values)}: choose one")
        self.given = True
        setattr(namespace, self.dest, values)


class Named(argparse.Action):
    """Joins the values of a repeatable option NAME=VALUE, whose type gives pairs, to a dict."""

    def __call__(self, parser, namespace, values, option_string=None):
        name, value = values
        joined = dict(getattr(namespace, self.dest) or {})
        if joined.setdefault(name, value) != value:
            whose, before = "" if name is None else f" for {name!r}", joined[name]
            raise argparse.ArgumentError(self, f"it is given twice{whose}, {before:g} and {value:g}: choose one")
        setattr(namespace, self.dest, joined)


class Parser(argparse.ArgumentParser):
    """An argument parser that answers in one line and names what was probably meant."""

    def __init__(self, **arguments):
        super().__init__(allow_abbrev=False, **arguments)
        self.register("action", None, Once)
        self._given: list[str] = []

    def parse_known_args(self, args=None, namespace=None):
        self._given = list(sys.argv[1:] if args is None else args)
        for action in self._actions:
            if isinstance(action, Once):
                action.given = False
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str):
        hints = [f"did you mean {near}?" for near in self._nearest(message)]
        hints.append(f"{self.prog} --help tells more")
        self.exit(2, f"{self.prog}: {message}; {' '.join(hints)}\n")

    def _nearest(self, message: str) -> list[str]:
        options = set(re.findall(r"--[a-z][a-z-]*", self.format_help()))
        given = (word.partition("=")[0] for word in self._given if word.startswith("--"))
        pairs = [(word, options) for word in given if word not in options]
        if choice := re.search(r"invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message):
            pairs.append((choice[1], re.findall(r"[\w-]+", choice[2])))
        return [near for word, known in pairs for near in difflib.get_close_matches(word, known, n=1)]


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option: an integer, `least` or more."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected an integer, {least} or more, got {text!r}")
        return int(text)

    return read


def number(least: float, below: float = float("inf")) -> Callable[[str], float]:
    """The type of an option: least <= number < below."""
    bounds = f"{least:g} or more" if below == float("inf") else f"from {least:g} to below {below:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value < below:
            raise argparse.ArgumentTypeError(f"expected a number, {bounds}, got {text!r}")
        return value

    return read


def device(text: str) -> str:
    """The type of an option: a device as PyTorch names it, which is looked for later."""
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"there is no device called {text!r}: name cpu, cuda or cuda:1")
    return text


def fold_numbers(text: str) -> tuple[int, ...]:
    """The type of an option: numbers of folds; none stands for all."""
    if text == "all":
        return ()
    if not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected all, or numbers of folds with commas between, got {text!r}")
    return tuple(map(int, text.split(",")))


def shard(text: str) -> tuple[int, int]:
    """The type of an option: number of this process, from 0, and of all of them."""
    parts = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if parts is None or int(parts[1]) >= int(parts[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, such as 0/2 and 1/2, got {text!r}")
    return int(parts[1]), int(parts[2])


def _told(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
