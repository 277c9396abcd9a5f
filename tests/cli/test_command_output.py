"""What is printed where the encoding cannot say everything."""

import sys

import pytest

from dlka_med.cli import main, schema

TOLD = "Größe 脑 0.5\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_what_the_encoding_lacks_is_written_as_its_code(tmp_path, monkeypatch, encoding):
    def run(options):
        sys.stdout.write(TOLD)

    monkeypatch.setattr(schema, "run", run)
    with (tmp_path / "told.txt").open("w", encoding=encoding, newline="\n") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["schema"]) == 0
    assert (tmp_path / "told.txt").read_bytes() == TOLD.encode(encoding, "backslashreplace")
