"""The table of all rules: code, severity, what finds it, how to mend it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dlka_med.checking import rules_dataset, rules_files, rules_grids, rules_images, rules_labels
from dlka_med.checking.findings import Finding, Found, Severity, in_order
from dlka_med.checking.survey import Survey

FIX = "--fix does it"
DECIDE_LABEL = "look which label is right and remove the other case; --fix keeps the first and counts the other as lost"
DECIDE_GROUPS = (
    "name the groups in groups.csv, or leave all of them empty if these are no patients: "
    f"{FIX} if the ids call them so, such as patient01_a"
)


@dataclass(frozen=True)
class Rule:
    """One kind of finding. `find` yields one `Found` per file."""

    code: str
    severity: Severity
    find: Callable[[Survey], Iterable[Found]]
    mend: str


RULES = (
    Rule("file-missing", "error", rules_files.missing, "put it there, or remove the case"),
    Rule("file-empty", "error", rules_files.empty, "copy or export it again"),
    Rule("file-unreadable", "error", rules_files.unreadable, "--fix leaves the case out"),
    Rule("file-stray", "error", rules_files.refused("file-stray"), "--fix leaves it out"),
    Rule("file-unlisted", "note", rules_files.unlisted, "add it to the list, or move it away; --fix does not copy it"),
    Rule("file-shared", "error", rules_files.shared, "give each case its own file; --fix leaves these cases out"),
    Rule("case-twice", "error", rules_files.refused("case-twice"), "--fix keeps the first"),
    Rule("kinds-mixed", "error", rules_files.refused("kinds-mixed"), "--fix keeps what there is most of"),
    Rule("groups-wrong", "error", rules_files.refused("groups-wrong"), "mend the table"),
    Rule("axes-wrong", "error", rules_files.axes, "save each time point as a volume of its own"),
    Rule("axes-five", "note", rules_files.five_axes, f"save it with the channels on the fourth axis: {FIX}"),
    Rule("channels-wrong", "error", rules_files.channels, "convert the file, or declare its channels in dataset.json"),
    Rule("voxels-rgb", "error", rules_files.rgb_volumes, f"save one channel per colour: {FIX}"),
    Rule("modes-mixed", "note", rules_files.modes, f"save all images alike: {FIX}"),
    Rule("exif-turned", "warning", rules_files.turned, f"look at the pair and save it upright: {FIX}"),
    Rule("grid-size", "error", rules_grids.shapes, f"resample it onto the image's grid: {FIX} for labels of volumes"),
    Rule("grid-affine", "error", rules_grids.affines, f"resample it onto the image's grid: {FIX} for labels"),
    Rule("grid-noise", "note", rules_grids.noise, f"copy the image's affine: {FIX}"),
    Rule("affine-singular", "error", rules_grids.singular, "mend the sform or qform of its header"),
    Rule("affine-sheared", "warning", rules_grids.sheared, "resample image and label onto a rectangular grid"),
    Rule("affine-oblique", "note", rules_grids.oblique, "it is read along the nearest axes"),
    Rule("affine-left-handed", "note", rules_grids.left_handed, "preprocessing.orientation turns it"),
    Rule("orientation-mixed", "note", rules_grids.orientations, "leave preprocessing.orientation set"),
    Rule("pixdim-differs", "warning", rules_grids.pixdim, f"find out which is right; the affine is used: {FIX}"),
    Rule("forms-differ", "note", rules_grids.forms, f"other programs may use the qform: make both equal: {FIX}"),
    Rule("unit-missing", "note", rules_grids.unit_missing, f"write the unit into its header: {FIX}"),
    Rule("unit-other", "note", rules_grids.unit_other, f"write it in mm: {FIX}"),
    Rule("unit-mixed", "warning", rules_grids.unit_mixed, "write the unit that it is in into its header"),
    Rule("spacing-implausible", "warning", rules_grids.implausible_spacing, "mend the unit or the affine"),
    Rule("spacing-odd", "note", rules_grids.odd_spacing, "look whether it belongs here"),
    Rule("size-odd", "note", rules_grids.odd_size, "look whether it belongs here"),
    Rule("voxels-nan", "error", rules_images.nan, f"replace them by the empty value: {FIX}"),
    Rule("voxels-infinite", "error", rules_images.infinite, f"replace them by the empty value: {FIX}"),
    Rule("image-constant", "warning", rules_images.constant, "export it again; --fix leaves the case out"),
    Rule("outliers-extreme", "note", rules_images.outliers, "set preprocessing.intensity to a robust kind"),
    Rule("ct-offset-lost", "warning", rules_images.lost_offset, "export it again in Hounsfield units"),
    Rule("ct-without-negatives", "note", rules_images.without_negatives, "export them again in Hounsfield units"),
    Rule("mask-255", "error", rules_labels.white, f"write the declared value: {FIX} if there is one label"),
    Rule("mask-antialiased", "error", rules_labels.antialiased, f"threshold it at the middle: {FIX}"),
    Rule("mask-colours", "error", rules_labels.colours, f"replace colours by values: {FIX} for one colour and label"),
    Rule("mask-jpeg", "error", rules_labels.jpeg, f"export it as PNG: {FIX} if there is one label"),
    Rule("label-undeclared", "error", rules_labels.undeclared, "declare the values in dataset.json, or mend the file"),
    Rule("label-not-whole", "error", rules_labels.fractional, f"resample labels by nearest: {FIX} if there is one"),
    Rule("label-not-finite", "error", rules_labels.not_finite, "export it again"),
    Rule("label-absent", "warning", rules_labels.absent, f"take it out of dataset.json: {FIX} but for regions"),
    Rule("label-rare", "note", rules_labels.rare, "some folds will not be able to measure it; add cases"),
    Rule("label-empty", "note", rules_labels.empty, "look whether this is meant"),
    Rule("label-vanishes", "note", rules_labels.vanishing, "plan a finer preprocessing.spacing"),
    Rule("duplicate-cases", "warning", rules_dataset.duplicates, f"remove one of the two: {FIX}"),
    Rule("duplicate-in-test", "error", rules_dataset.duplicates_in_test, f"remove one of the two: {FIX}"),
    Rule("duplicate-labels-differ", "error", rules_dataset.duplicates_that_differ, DECIDE_LABEL),
    Rule("duplicate-across-groups", "error", rules_dataset.duplicates_across_groups, f"remove one: {FIX}"),
    Rule("group-in-test", "warning", rules_dataset.group_in_test, f"remove it, or mend groups.csv: {FIX}"),
    Rule("ids-one-patient", "warning", rules_dataset.one_patient, DECIDE_GROUPS),
    Rule("count-wrong", "warning", rules_dataset.wrong_count, f"look for what is missing, then correct it: {FIX}"),
)


def apply(survey: Survey, rules: Iterable[Rule] = RULES) -> tuple[Finding, ...]:
    """All findings, the worst first."""
    found = [
        Finding(rule.severity, rule.code, one.path, one.wrong, rule.mend, one.case)
        for rule in rules
        for one in rule.find(survey)
    ]
    return tuple(in_order(found))
