"""What is measured, and on what terms."""

import pytest

from dlka_med.errors import InputError
from dlka_med.evaluation.measures import HEADLINES, MEASURES, Protocol


def test_measures_of_volumes_of_2d_images_and_of_named_labels():
    plain = Protocol()
    flat, deep = plain.measures("px"), plain.measures("mm")
    assert "boundary_iou" in flat.keys() - deep.keys()
    assert "volume_error_ml" in deep.keys() - flat.keys()
    assert set(HEADLINES) <= flat.keys() & deep.keys()
    special = set(Protocol(tubes=["vessel"], lesions=["tumour"]).measures("mm")) - set(deep)
    assert special == {name for name, measure in MEASURES.items() if measure.needs in ("tubes", "lesions")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": -1}, "tolerance of the surface Dice is -1"),
        ({"tolerances": {"kidney": float("inf")}}, "tolerance of the surface Dice is inf"),
        ({"lesion_overlap": 1.5}, "lesion_overlap is 1.5, but must be from 0 to 1"),
        ({"convention": "brat"}, "no convention 'brat': expected synapse-2d or brats or decathlon or nnunet"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Protocol(**arguments)


def test_a_mistyped_label_is_named_with_the_nearest():
    protocol = Protocol(tolerances={"kidny": 2.0})
    with pytest.raises(InputError, match=r"no label .kidny.: .* kidney, tumour; did you mean .kidney.\?"):
        protocol.check_labels(("kidney", "tumour"))
    assert Protocol(1.5, {"kidney": 3.0}).tolerance_of("kidney") == 3
    assert Protocol(1.5, {"kidney": 3.0}).tolerance_of("tumour") == 1.5
