"""What declared labels mean."""

import numpy as np
import pytest

from dlka_med.config.labels import IGNORED, MAX_LABELS, LabelScheme, declared_labels

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def test_plain_labels_are_classes():
    scheme = LabelScheme.of({"tumour": 7, "background": 0, "kidney": 2})
    assert scheme.values == (0, 2, 7)
    assert scheme.targets == {"kidney": (1,), "tumour": (2,)}
    assert (scheme.outputs, scheme.regions, scheme.painted, scheme.ignore) == (3, None, None, None)
    assert scheme.target_values == {"kidney": (2,), "tumour": (7,)}
    assert LabelScheme.of({"0": "background", "7": "tumour", "2": "kidney"}) == scheme
    assert LabelScheme.of(scheme) is scheme


def test_regions_overlap_and_paint_in_their_order():
    scheme = LabelScheme.of({"edge": [9, 4], **BRATS, "ignore": 5}, order=[4, 1, 2, 3])
    assert scheme.values == (0, 1, 2, 3, 4, 9)
    assert scheme.names == ("edge", "whole", "core", "enhancing")
    assert scheme.regions == ((5, 4), (1, 2, 3), (2, 3), (3,))
    assert (scheme.outputs, scheme.painted, scheme.ignore) == (4, (4, 1, 2, 3), 5)
    assert scheme.value_names == {1: "whole", 2: "core", 3: "enhancing", 4: "edge", 9: "edge", 5: "ignore"}
    classes = np.arange(6)
    assert scheme.mask("core", classes).tolist() == [False, False, True, True, False, False]
    assert scheme.mask("enhancing", classes).tolist() == [False, False, False, True, False, False]


def test_the_ignore_label_is_no_class():
    scheme = LabelScheme.of({"background": 0, "ignore": 1, "liver": 2})
    assert (scheme.values, scheme.outputs, scheme.ignore) == ((0, 2), 2, 1)
    assert str(scheme) == "{'background': 0, 'liver': 2, 'ignore': 1}"


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"background": 0, "a": []}, "region 'a' needs values"),
        ({"background": 0, "a": [1, 1]}, "region 'a' needs values, each of them once"),
        ({"background": 0, "a": [0, 1]}, "region 'a' holds the background"),
        ({"background": 0, "a": [1, True]}, "'a' must have whole numbers"),
        ({"background": 0, "a": [1, [2]]}, "'a' must have whole numbers"),
        ({"background": 0, "a": 1, "ignore": 1}, "'a' has the value 1, which is that of 'ignore'"),
        ({"background": 0, "a": [1, 2], "ignore": 2}, "'a' has the value 2, which is that of 'ignore'"),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, "'ignore' must have one value"),
        ({"background": 0, "a": 1, "ignore": 0}, "'ignore' must have one value that is not 0"),
        ({"background": 0, "a": 1, "b": 1}, "share a value"),
        ({f"l{n}": n for n in range(1, 256)}, "there are 256 labels, but with the background 255 is the most"),
    ],
)
def test_contradictions_are_named(declared, told):
    with pytest.raises(ValueError, match=told):
        declared_labels(declared)


def test_the_most_labels_leave_a_byte_for_what_is_ignored():
    scheme = LabelScheme.of({f"l{n}": n for n in range(1, MAX_LABELS)})
    assert len(scheme.values) == MAX_LABELS <= IGNORED


@pytest.mark.parametrize(
    ("declared", "order", "told"),
    [
        (BRATS, [1, 2], "needs one value for each of the 3 regions"),
        (BRATS, [1, 1, 3], r"paints the region 'core' as 1, but it holds \[2, 3\]"),
        ({"background": 0, "a": 1}, [1], "no label is a region: remove it"),
    ],
)
def test_an_order_fits_the_regions(declared, order, told):
    with pytest.raises(ValueError, match=told):
        LabelScheme.of(declared, order)
