"""Folders that cannot be are told before label maps are read."""

import pytest

from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate


@pytest.mark.parametrize("out", ["a" * 5000, "a\0b"])
def test_a_folder_that_cannot_be_is_told_in_few_words(tmp_path, out):
    with pytest.raises(InputError, match="cannot write to the folder") as told:
        evaluate(tmp_path, tmp_path, out)
    assert len(str(told.value)) < 600
