"""Name, split, crop and grey values."""

from dlka_med.planning.choice import Choice
from dlka_med.planning.rules_data import dataset, intensity, preprocessing, run_name
from dlka_med.planning.summary import Channel

PLANE = Choice(None, "")


def test_names_become_names_of_folders(summary):
    assert run_name(summary(name="Kopf & Hals (2024)/neu"), "dlka_net_3d").value == "Kopf_Hals_2024_neu_dlka_net_3d"
    assert run_name(summary(name="心臓"), "n").value == "dataset_n"


def test_folds_are_no_more_than_there_are_groups(summary):
    def split(cases, groups):
        choices = dataset(summary(cases=cases, groups=groups), "root", PLANE)
        return choices["dataset.folds"].value, choices["dataset.fold"].value

    assert [split(20, 20), split(9, 3), split(1, 1), split(4, 1)] == [(5, 0), (3, 0), (5, "all"), (5, "all")]


def test_intensity_is_automatic_unless_there_are_outliers():
    def of(*channels):
        return intensity(channels).value

    ct = Channel("CT", (50.0, 30.0, -20.0, 120.0), 0.0, ("a",))
    assert of(ct) == "auto"
    assert "-20 to 120" in intensity((ct,)).reason
    assert of(Channel("T1", (), 1.0), Channel("T2", (), 0.0)) == "auto"
    found = of(ct, Channel("T1", (), 1.0, ("a", "b")), Channel("T2", (), 0.0), Channel("T3", (), 0.2, ("a",)))
    assert [entry["kind"] for entry in found] == ["ct", "robust_nonzero", "zscore", "robust"]


def test_volumes_are_cropped_and_images_are_not(summary):
    volumes = preprocessing(summary(), Choice(None, ""), (0, 1, 2))
    images = preprocessing(summary((64, 64), (1.0, 1.0)), Choice(None, ""), (0, 1))
    assert volumes["preprocessing.crop_foreground"].value is True
    assert volumes["preprocessing.orientation"].value == "RAS"
    assert images["preprocessing.crop_foreground"].value is False
    assert images["preprocessing.orientation"].value is None


def test_slices_stay_whole_and_where_they_are(summary):
    """Those to predict have their empty space, too, and nothing is invented between slices."""
    slices = preprocessing(summary((64, 64, 5), (1.0, 1.0, 6.0)), Choice((1.5, 1.5, 6.0), "mm, median"), (0, 1))
    assert slices["preprocessing.crop_foreground"].value is False
    assert slices["preprocessing.spacing"] == Choice((1.5, 1.5, None), "mm, median; null: the slices as they are")
    assert slices["preprocessing.orientation"].value == "RAS"
