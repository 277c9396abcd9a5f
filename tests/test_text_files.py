"""Text of other programs: with a byte-order mark, of other encodings, behind paths that are none."""

import codecs

import pytest

from dlka_med.errors import InputError
from dlka_med.text_files import read_text

TEXT = "name: Läsion\r\nvalue: 1\n"


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_utf8_is_read_with_and_without_a_mark(tmp_path, mark):
    (tmp_path / "x.yaml").write_bytes(mark + TEXT.encode())
    assert read_text(tmp_path / "x.yaml") == TEXT


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TEXT.encode("utf-16"), "saved as UTF-16.*: save it as UTF-8"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "saved as UTF-16"),
        (TEXT.encode("utf-16-le"), "saved as UTF-16"),
        (TEXT.encode("utf-16-be"), "saved as UTF-16"),
        (TEXT.encode("utf-32"), "saved as UTF-16"),
        (b"a: 1\n" + TEXT.encode("cp1252"), "x.yaml, line 2: this is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, words):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_text(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["", "nothing", "a" * 5000, "a\0b"])
def test_what_is_no_file_is_named_in_few_words(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read") as told:
        read_text(f"{tmp_path}/{name}")
    assert len(str(told.value)) < 600
    assert "\0" not in str(told.value)
