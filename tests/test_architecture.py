"""The house keeps its plan: arrows, doors, file length, and what may not be written."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = "dlka_med"
MAX_LINES = 350

FLOORS = [
    {"errors"},
    {"files", "machine", "paths", "progress"},
    {"text_files", "shards"},
    {"ops", "config"},
    {"layers"},
    {"blocks"},
    {"networks"},
    {"data", "losses", "metrics", "statistics", "run_folder", "prediction_folder"},
    {"checking", "provenance", "folds_folder"},
    {"planning", "inference", "evaluation", "import_weights"},
    {"training", "export", "calibrating", "postprocessing", "inspection"},
    {"comparing"},
    {"report"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TENSOR_ROOMS = {"ops", "layers", "blocks", "networks"}

DOORS = {
    "timm": ("dlka_med.networks.timm_encoder",),
    "pytorch_lightning": ("dlka_med.training",),
    "lightning": (),
    "tensorboard": ("dlka_med.training.loggers",),
    "tensorboardX": (),
    "mlflow": ("dlka_med.training.loggers",),
    "wandb": ("dlka_med.training.loggers",),
    "lightning_fabric": ("dlka_med.training",),
    "matplotlib": ("dlka_med.evaluation",),
    "jinja2": ("dlka_med.report",),
    "nilearn": ("dlka_med.demo",),
    "skimage": ("dlka_med.metrics.centerline",),
    "numba": ("dlka_med.ops.backends",),
    "llvmlite": ("dlka_med.ops.backends",),
    "triton": ("dlka_med.ops.backends",),
    "ultralytics": ("dlka_med.export.yolo",),
    "pydantic": ("dlka_med.config",),
    "SimpleITK": ("dlka_med.data.itk",),
    "pydicom": ("dlka_med.data.dicom",),
    "highdicom": ("dlka_med.inference.dicom_seg",),
    "PIL": ("dlka_med.data.raster",),
    "filelock": ("dlka_med.data.cache_room", "dlka_med.shards"),
}
PICKLERS = {"cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
OPS_MAY_IMPORT = {"torch", "numpy", "numba", "llvmlite", "triton", PACKAGE, *sys.stdlib_module_names}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:" + "|".join(("work", "farm", "tmp", "root", "home")) + ")/")


def modules() -> dict[str, str]:
    """Source of each module of the package by its dotted name."""
    found = {}
    for path in sorted((PROJECT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(PROJECT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, source: str, known: set[str]) -> Iterator[str]:
    """Dotted names that a module imports anywhere in it, submodules resolved."""
    is_package = any(other.startswith(name + ".") for other in known)
    tree = ast.parse(source)
    if name == PACKAGE:  # it names for type checkers what it looks up later
        tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, *filter(None, [base])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known else base


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def room_of(module: str) -> str | None:
    """`dlka_med.ops.backends.x` stands in `ops`; the package itself in none."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def within(module: str, doors: tuple[str, ...]) -> bool:
    return any(module == door or module.startswith(door + ".") for door in doors)


def wrong_import(module: str, imported: str) -> str | None:
    """Why the arrow from `module` to `imported` may not be, or None."""
    here, there, top = room_of(module), room_of(imported), imported.split(".")[0]
    if top in DOORS and not within(module, DOORS[top]):
        return f"{module} imports {imported}: only {' '.join(DOORS[top]) or 'nobody'} may"
    if here == "ops" and top not in OPS_MAY_IMPORT:
        return f"{module} imports {imported}: ops stands on torch alone"
    if there is None or here == there:
        return None
    if here is None or there not in FLOOR_OF or here not in FLOOR_OF:
        return f"{module} imports {imported}: a room that the plan does not know"
    if FLOOR_OF[there] >= FLOOR_OF[here]:
        return f"{module} imports {imported}: {there} does not stand below {here}"
    if here in TENSOR_ROOMS and there not in TENSOR_ROOMS:
        return f"{module} imports {imported}: {here} takes plain arguments"
    return None


def wrong_imports(sources: dict[str, str]) -> list[str]:
    known = set(sources)
    found = (wrong_import(name, other) for name, source in sources.items() for other in imports(name, source, known))
    return [problem for problem in found if problem]


def circle(sources: dict[str, str]) -> list[str] | None:
    """Names of modules that import each other in a ring, or None."""
    known = set(sources)
    graph = {name: {i for i in imports(name, source, known) if i in known} for name, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def wrong_words(name: str, source: str) -> list[str]:
    """Calls and imports that the package may not contain."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in ("print", "eval", "exec", "breakpoint"):
                problems.append(f"{name}:{node.lineno} calls {called}")
            if called.endswith("torch.load") and keywords.get("weights_only") != "True":
                problems.append(f"{name}:{node.lineno} calls torch.load without weights_only=True")
            if keywords.get("allow_pickle", "False") != "False":
                problems.append(f"{name}:{node.lineno} allows pickles")
            if called in ("yaml.unsafe_load", "yaml.full_load"):
                problems.append(f"{name}:{node.lineno} calls {called}")
        names = [node.attr] if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" else []
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            names = [alias.name for alias in node.names]
        if any(not word.endswith("Error") for word in names):
            problems.append(f"{name}:{node.lineno} uses pickle")
    picklers = {i.split(".")[0] for i in imports(name, source, set())} & PICKLERS
    return problems + [f"{name} imports {word}" for word in sorted(picklers)]


def files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in PROJECT.glob(pattern) if path.is_file())


def test_imports_follow_the_arrows_and_the_doors():
    assert wrong_imports(modules()) == []


def test_no_circle():
    assert circle(modules()) is None


def test_no_print_pickle_or_eval():
    assert [problem for name, source in modules().items() for problem in wrong_words(name, source)] == []


def test_files_are_short():
    sources = files(f"{PACKAGE}/**/*.py", "tests/**/*.py", "examples/**/*.py")
    lengths = {str(p.relative_to(PROJECT)): len(p.read_text(encoding="utf-8").splitlines()) for p in sources}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_path_of_a_machine():
    places = files(
        f"{PACKAGE}/**/*.py",
        "tests/**/*.py",
        "examples/**/*.py",
        "configs/**/*",
        "*.cfg",
        "*.toml",
        "*.md",
        ".ci/*",
    )
    found = {str(p.relative_to(PROJECT)) for p in places if MACHINE_PATH.search(p.read_text(encoding="utf-8"))}
    assert found == set()


def test_tests_mirror_the_package():
    """A test in a room's folder is named after a file or folder of that room; the same holds for the examples."""
    names = {room: {p.stem for p in (PROJECT / PACKAGE / room).rglob("*")} for room in FLOOR_OF}
    names["examples"] = {p.stem for p in (PROJECT / "examples").rglob("*")}
    strangers = [
        str(path.relative_to(PROJECT))
        for path in files("tests/*/test_*.py")
        if not any(path.stem.removeprefix("test_").startswith(n) for n in names.get(path.parent.name, ()))
    ]
    assert strangers == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dlka_med.ops.x", "import dlka_med.layers.y"),
        ("dlka_med.layers.x", "from dlka_med.blocks import y"),
        ("dlka_med.layers.x", "from ..blocks import y"),
        ("dlka_med.networks.x", "def f():\n    from dlka_med.config.schema import RunConfig"),
        ("dlka_med.networks.x", "from dlka_med.errors import InputError"),
        ("dlka_med.data.x", "import dlka_med.losses"),
        ("dlka_med.data.x", "from dlka_med import cli"),
        ("dlka_med.inference.x", "import pytorch_lightning as pl"),
        ("dlka_med.training.x", "import lightning"),
        ("dlka_med.training.x", "from matplotlib import pyplot"),
        ("dlka_med.networks.dlka_net_3d", "import timm.models"),
        ("dlka_med.ops.x", "import monai"),
        ("dlka_med", "from dlka_med.cli import main"),
        ("dlka_med.attic.x", "import dlka_med.files"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    sources = {
        "dlka_med.cli": "",
        "dlka_med.config.schema": "",
        "dlka_med.layers": "",
        "dlka_med.layers.z": "",
    }
    assert len(wrong_imports(sources | {module: source})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dlka_med.layers.x", "from dlka_med.ops import y"),
        ("dlka_med.layers.x", "from .deform_conv import y"),
        ("dlka_med.layers", "from .x import y"),
        ("dlka_med.cli", "from dlka_med import __version__"),
        ("dlka_med.training.task", "import pytorch_lightning"),
        ("dlka_med.config.loading", "from dlka_med.files import whole_file"),
    ],
)
def test_a_right_import_passes(module, source):
    assert wrong_imports({module: source, "dlka_med.layers.x": ""} | {module: source}) == []


def test_a_circle_is_found():
    ring = {"dlka_med.data.a": "from . import b", "dlka_med.data.b": "from dlka_med.data.a import f"}
    assert set(circle({"dlka_med.data": "", **ring})) == set(ring)


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "eval('1')",
        "import dill",
        "import pickle\npickle.load(file)",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_a_wrong_word_is_found(source):
    assert len(wrong_words("x", source)) == 1


def test_right_words_pass():
    right = ("import pickle\npickle.UnpicklingError", "model.eval()", "torch.load(path, weights_only=True)")
    assert [wrong_words("x", source) for source in (*right, "np.load(path, allow_pickle=False)")] == [[]] * 4


def test_a_machine_path_is_found():
    assert MACHINE_PATH.search('open("/' + 'tmp/x")')
    assert not MACHINE_PATH.search("shared/home/x")
