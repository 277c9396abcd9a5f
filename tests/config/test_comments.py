from dlka_med.config.comments import comments_of
from dlka_med.config.loading import save_config
from dlka_med.config.schema import RunConfig

CONFIG = {"name": "x", "dataset": {"root": "d"}, "network": {"name": "unet"}, "training": {"patch_size": (32, 32, 32)}}


def test_a_comment_belongs_to_the_value_before_it(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "# head\n"
        "name: 'a # b'  # first\n"
        "section:\n"
        "  # of the next line\n"
        "  list: [1,\n    2]  # second # third\n"
        "  inner: {a: 1}  # flow\n"
        "  plain: x#y\n"
        "  deeper:\n"
        "    key: null  #   last  \n"
    )
    assert comments_of(tmp_path / "c.yaml") == {
        "name": "first",
        "section.list": "second # third",
        "section.inner": "flow",
        "section.deeper.key": "last",
    }


def test_a_value_of_many_lines_has_no_comment_of_the_next_one(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "list:\n  - 1\n  - 2\nnext: 3  # its own\ntext: |\n  word\nsection:\n  list: [\n    1]  # flow\n"
    )
    assert comments_of(tmp_path / "c.yaml") == {"next": "its own", "section.list": "flow"}


def test_comments_on_what_is_replaced_are_left_out(tmp_path):
    (tmp_path / "c.yaml").write_text("a: {b: 1}  # first\nc:\n  d: 2  # second\n  e: 3  # third\ncc: 4  # fourth\n")
    assert comments_of(tmp_path / "c.yaml", ["a.b", "c.d"]) == {"c.e": "third", "cc": "fourth"}
    assert comments_of(tmp_path / "c.yaml", ["c"]) == {"a": "first", "cc": "fourth"}


def test_reasons_are_read_as_they_were_saved(tmp_path):
    reasons = {"training.patch_size": "fits # the case", "network.name": "asked for"}
    save_config(RunConfig.model_validate(CONFIG), tmp_path / "c.yaml", reasons)
    found = comments_of(tmp_path / "c.yaml")
    assert {key: found[key] for key in reasons} == reasons
    assert found["dataset.root"] == RunConfig.model_fields["dataset"].annotation.model_fields["root"].description


def test_an_empty_file_has_none(tmp_path):
    (tmp_path / "c.yaml").touch()
    assert comments_of(tmp_path / "c.yaml") == {}
