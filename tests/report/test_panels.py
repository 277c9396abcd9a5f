import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from dlka_med.cli import main
from dlka_med.data.cases import find_cases
from dlka_med.errors import InputError
from dlka_med.evaluation.figures import UNKNOWN
from dlka_med.report.panels import draw_case, read_panel, values_by_name
from dlka_med.report.subject import case_of, open_subject

from .conftest import HOSTILE, LABELS, make_dataset, make_run

NAMES = [HOSTILE, *(f"case_{number}" for number in range(1, 6))]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "AIL"])
def test_a_volume_is_turned_as_nibabel_turns_it(tmp_path, volumes, codes):
    """Voxels, label maps and spacing alike."""
    run = make_run(tmp_path / "run", volumes, everybody=tuple(NAMES))
    (case, *_), config = find_cases(volumes, ["MRI"]), run.config
    original = nib.load(volumes / "imagesTr" / "case_1_0000.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(original.affine), nib.orientations.axcodes2ornt(codes))
    paths = {}
    folders = {"image": "imagesTr", "label": "labelsTr", "prediction": "predictions"}
    for kind, folder in (folders | {"uncertainty": "predictions/uncertainty"}).items():
        name = f"case_1{'_0000' if kind == 'image' else ''}.nii.gz"
        paths[kind] = tmp_path / f"{kind}.nii.gz"
        nib.save(nib.load(volumes / folder / name).as_reoriented(turn), paths[kind])
    turned = type(case)("case_1", (paths["image"],), paths["label"])
    panel = read_panel(turned, paths["prediction"], config, uncertainty=paths["uncertainty"])
    wanted = nib.as_closest_canonical(nib.load(paths["image"]))
    assert np.allclose(panel.image[0], wanted.get_fdata())
    assert panel.spacing == pytest.approx(wanted.header.get_zooms())
    for kind, found in (("label", panel.reference), ("prediction", panel.prediction)):
        assert (found == nib.as_closest_canonical(nib.load(paths[kind])).get_fdata()).all()
    bits = nib.as_closest_canonical(nib.load(paths["uncertainty"])).get_fdata() * np.log2(3)
    assert np.abs(panel.uncertainty - bits).max() <= np.log2(3) / 255
    assert panel.uncertainty.max() == pytest.approx(210 / 255 * np.log2(3))


def test_what_the_reference_ignores_is_unknown(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, everybody=tuple(NAMES))
    labels = {"background": 0, "front": 1, "ignore": 2}
    dataset = type(run.config.dataset).model_validate(run.config.dataset.model_dump() | {"labels": labels})
    config = run.config.model_copy(update={"dataset": dataset})
    case, _ = case_of(open_subject(run.path), "case_1")
    reference = read_panel(case, None, config).reference
    stored = nib.as_closest_canonical(nib.load(case.label)).get_fdata()
    assert (stored == 2).any()
    assert ((reference == UNKNOWN) == (stored == 2)).all()
    assert ((reference == 1) == (stored == 1)).all()


def test_a_prediction_on_another_grid_is_refused(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, everybody=tuple(NAMES))
    case, _ = case_of(open_subject(run.path), "case_2")
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match=r"x\.nii\.gz has the shape \(5, 6, 7\)"):
        read_panel(case, tmp_path / "x.nii.gz", run.config)


def test_names_of_values(tmp_path, volumes):
    scheme = make_run(tmp_path / "run", volumes).config.dataset.scheme
    assert values_by_name(scheme) == {name: value for name, value in LABELS.items() if value}
    regions = type(scheme).of({"background": 0, "whole": [1, 2, 3], "core": 3, "ignore": 4}, [1, 3])
    assert values_by_name(regions) == {"whole": 1, "whole (2)": 2, "core": 3}


@pytest.mark.parametrize(("ending", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_of_the_kind_that_its_name_says(tmp_path, volumes, thresholding, ending, head, capsys):
    run = make_run(tmp_path / "run", volumes, everybody=tuple(NAMES))
    out = tmp_path / f"case.{ending}"
    assert main(["figure", str(run.path), HOSTILE, "-o", str(out), "--device", "cpu"]) == 0
    assert out.read_bytes().startswith(head)
    assert capsys.readouterr().out == f"{out}\n"
    assert main(["figure", str(run.path), HOSTILE, "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_figure_says_whether_the_case_trained(tmp_path, volumes, thresholding):
    run = make_run(tmp_path / "run", volumes, validation=["case_1"], everybody=tuple(NAMES))
    texts = {}
    for name in ("case_1", "case_2"):
        draw_case(open_subject(run.path), name, tmp_path / "x.svg", device="cpu")
        texts[name] = (tmp_path / "x.svg").read_text()
    assert "trained" not in texts["case_1"]
    assert "case_2 (the network trained on it)" in texts["case_2"]
    assert ">front<" in texts["case_1"]
    assert "<script>" not in texts["case_1"]
    assert "$\\foo$" in texts["case_1"]  # no formula


def test_a_2d_figure(tmp_path, thresholding):
    root = make_dataset(tmp_path / "flat", 2, count=2)
    run = make_run(tmp_path / "run", root, dims=2, everybody=(HOSTILE, "case_1"))
    draw_case(open_subject(run.path), "case_1", tmp_path / "x.png", device="cpu")
    assert imread(tmp_path / "x.png").shape[1] == 1300


def test_an_unknown_case_is_told_with_its_nearest(tmp_path, volumes, capsys):
    run = make_run(tmp_path / "run", volumes, everybody=tuple(NAMES))
    assert main(["figure", str(run.path), "cse_3"]) == 2
    assert "has no case 'cse_3'; did you mean case_3 or" in capsys.readouterr().err
