"""Options that are given more than once: nothing that was asked for is lost without a word."""

import pytest

from dlka_med.cli import build_parser
from dlka_med.cli.parser import Parser, number

PREDICT = ["predict", "run", "images", "-o", "out"]
EVALUATE = ["evaluate", "predictions", "labels", "-o", "out"]


def parsed(words, more):
    parser, _ = build_parser()
    return parser.parse_args([*words, *more.split()])


def test_lists_in_parts_are_joined():
    options = parsed(EVALUATE, "--lesions a b --lesions c --tubes d --tubes e --against p --against q r")
    assert (options.lesions, options.tubes) == (["a", "b", "c"], ["d", "e"])
    assert list(map(str, options.against)) == ["p", "q", "r"]
    assert parsed(PREDICT, "--series 4,7 --series 9").series == ["4", "7", "9"]
    assert parsed(PREDICT, "").series == []


def test_what_is_given_for_names_is_joined():
    assert parsed(PREDICT, "--threshold a=0.3 --threshold b=0.6 --threshold a=0.3").threshold == {"a": 0.3, "b": 0.6}
    assert parsed(EVALUATE, "--tolerance 2 --tolerance a=1").tolerance == {None: 2, "a": 1}
    parser, _ = build_parser()
    for words, found in ((["--threshold", "a=0.3"], {"a": 0.3}), (["--threshold", "a=0.4"], {"a": 0.4}), ([], {})):
        assert parser.parse_args([*PREDICT, *words]).threshold == found, "of one command line alone"


@pytest.mark.parametrize("words", ["--mirror --mirror-axes=1", "--mirror-axes=1 --mirror"])
def test_axes_that_are_named_count_wherever_they_stand(words):
    options = parsed(PREDICT, words)
    assert (options.mirror, options.mirror_axes) == (True, (1,))


def test_an_option_has_one_value(capsys):
    """Also where the first one given is the default; another command line begins anew."""
    parser = Parser(prog="p")
    parser.add_argument("--share", type=number(0), default=0.5)
    assert parser.parse_args(["--share", "2", "--share", "2.0"]).share == 2
    assert parser.parse_args(["--share", "3"]).share == 3
    for words in (["--share", "0.5", "--share", "1"], ["--share=1", "--share=0.5"]):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(words)
        assert ended.value.code == 2
        assert "argument --share: it is given twice, " in capsys.readouterr().err
