import matplotlib
import pytest
from matplotlib.figure import Figure

from dlka_med.evaluation.drawing import plain, save


def figure(text):
    drawn = Figure(figsize=(2, 1))
    drawn.text(0.1, 0.5, plain(text))
    return drawn


@pytest.mark.parametrize("text", ["$x$", r"$\foo$", r"a\$b$", "5 $ and 6 $", "<b>&"])
def test_text_is_what_was_meant(tmp_path, text):
    save(figure(text), tmp_path / "x.svg")
    written = (tmp_path / "x.svg").read_text()
    assert f">{text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}</text>" in written


@pytest.mark.parametrize(
    ("name", "head"), [("x.PNG", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.pdf", b"%PDF"), ("x", b"\x89PNG")]
)
def test_the_name_says_the_format(tmp_path, name, head):
    save(figure("x"), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(head)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_picture_is_the_same_file(tmp_path, ending):
    for name in ("a", "b"):
        save(figure("x"), tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_settings_end_with_the_file(tmp_path):
    before = matplotlib.rcParams["svg.fonttype"]
    save(figure("x"), tmp_path / "x.svg")
    assert matplotlib.rcParams["svg.fonttype"] == before
