"""What `import dlka_med` offers, and what it does not load for that."""

import ast
import inspect
import subprocess
import sys

import pytest

import dlka_med

NAMES = [name for name in dlka_med.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_what_it_says(name):
    found = getattr(dlka_med, name)
    assert found is getattr(dlka_med, name)
    assert found.__module__.startswith("dlka_med.") if name != "NETWORKS" else "dlka_net_3d" in found


def test_type_checkers_see_the_same_names():
    tree = ast.parse(inspect.getsource(dlka_med))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        for alias in node.names:
            own = "" if alias.asname is None else f":{alias.name}"
            seen[alias.asname or alias.name] = f"{node.module.removeprefix('dlka_med.')}{own}"
    assert seen == dlka_med._HOMES
    assert set(NAMES) <= set(dir(dlka_med))


def test_the_import_loads_nothing():
    heavy = "import sys, dlka_med; print(*({'torch', 'numpy', 'monai', 'pydantic', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'dlka_med' has no attribute 'trian'"):
        dlka_med.trian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'trian'"):
        from dlka_med import trian  # noqa: F401
