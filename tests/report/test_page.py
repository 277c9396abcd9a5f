import base64
import hashlib
import re

import pytest
from jinja2 import UndefinedError

from dlka_med.report.page import HERE, render

BARE = {
    "name": "a_b</title><script>x</script>",
    "kind": "Training",
    "written": "today",
    "versions": "1",
    "told": None,
    "notes": ["<b>note</b>"],
    "compared": None,
    "scores": {},
    "curves": None,
    "facts": [],
    "fingerprints": [],
    "split": {},
    "split_of": "",
    "reliability": None,
    "check": None,
    "config": [],
}


def test_the_script_that_may_run_is_the_one_that_is_there():
    text = render(BARE)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_all_is_escaped_but_style_and_script():
    text = render(BARE)
    assert "&lt;b&gt;note&lt;/b&gt;" in text
    assert "a_<wbr>b&lt;/title&gt;" in text
    assert (HERE / "report.css").read_text(encoding="utf-8") in text


def test_what_the_template_lacks_is_told():
    with pytest.raises(UndefinedError):
        render({key: value for key, value in BARE.items() if key != "config"})
