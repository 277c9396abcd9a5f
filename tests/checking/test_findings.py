"""Lines of findings and their order."""

from dlka_med.checking.findings import Finding, in_order, is_clean, lines, verdict


def finding(severity, code, path="a.png"):
    return Finding(severity, code, path, "it is broken", "mend it")


def test_a_line_names_all():
    assert finding("error", "file-empty").line == "error    file-empty  a.png: it is broken; mend it"


def test_the_worst_comes_first():
    found = [finding("note", "b-note"), finding("error", "z-error"), finding("warning", "a-warning")]
    assert [one.severity for one in in_order(found)] == ["error", "warning", "note"]


def test_many_of_a_code_are_counted():
    found = [finding("error", "file-empty", f"{index}.png") for index in range(5)] + [finding("note", "size-odd")]
    told = list(lines(found, shown=2))
    assert [line.split()[:2] for line in told[:2]] == [["error", "file-empty"]] * 2
    assert told[2].split() == ["file-empty", "...", "and", "3", "more"]
    assert told[3] == found[-1].line
    assert len(told) == 4


def test_notes_are_clean():
    assert is_clean([])
    assert is_clean([finding("note", "size-odd")])
    assert not is_clean([finding("note", "size-odd"), finding("warning", "count-wrong")])


def test_the_verdict_counts():
    assert verdict([]) == "nothing found"
    found = [finding("error", "file-empty"), finding("note", "size-odd"), finding("note", "size-odd")]
    assert verdict(found) == "1 error, 2 notes"
