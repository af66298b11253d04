"""Who may know whom: the shape of the package, held by its import statements."""

import ast
import subprocess
import sys
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

import seggeo
from seggeo import config

ROOT = Path(seggeo.__file__).parent
MODULES = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in ROOT.rglob("*.py")}
CORE = {
    "apart", "config", "errors", "files", "geometry", "instances", "job", "plugins", "profiling", "protocols", "rle", "store",
    "tiling", "values",
}  # fmt: skip
MIDDLE = {"io", "merge", "models", "output"}
MAY_KNOW = {
    **dict.fromkeys(MIDDLE, CORE),
    "run": CORE | MIDDLE,
    "api": CORE | MIDDLE | {"run"},
    "evaluation": CORE | {"io"},
    "train": CORE | {"io", "models", "evaluation"},
    "cli": CORE | {"run", "models", "io", "evaluation", "train"},
    "__init__": {"api", "evaluation"} | CORE,
}
CORE_ORDER = [
    "errors",
    "profiling",
    "apart",
    "files",
    "geometry",
    "rle",
    "tiling",
    "instances",
    "protocols",
    "plugins",
    "values",
    "config",
    "job",
    "store",
]
"""A core module knows only those before it."""
HEAVY = ("torch", "torchvision", "rasterio", "dask", "skimage", "scipy", "pyogrio", "pyarrow", "pyproj", "shapely")
PUBLIC = [
    "Execution", "Frame", "Instances", "Objects", "Pixels", "Prediction", "SeggeoError", "Settings", "TileGrid", "TileImage",
    "Window", "__version__", "count_cells", "evaluate", "segment", "segment_array",
]  # fmt: skip


def home(module):
    """The core module, package or front module that a dotted name lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path, module):
    """Dotted names of the seggeo modules a file imports, anywhere in it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "seggeo")
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = f"{base}.{node.module}".strip(".") if node.level and node.module else base or node.module
            if source and source.split(".")[0] == "seggeo":
                yield from (f"{source}.{a.name}" if f"{source}.{a.name}" in MODULES else source for a in node.names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down_only(module):
    own = home(module)
    below = CORE_ORDER[: CORE_ORDER.index(own)] if own in CORE_ORDER else MAY_KNOW[own]
    allowed = {own, *below}
    names = {home(name) for name in imported(MODULES[module], module)} - {"__init__"}

    assert names <= allowed, f"{module} may not know {sorted(names - allowed)}"


def test_every_module_has_its_place():
    assert {home(module) for module in MODULES} == CORE | set(MAY_KNOW)
    assert set(CORE_ORDER) == CORE


@pytest.mark.parametrize("module", ["seggeo.cli.app", "seggeo", "seggeo.instances", "seggeo.store"])
def test_importing_the_front_and_the_core_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_what_it_is_and_stays_short(module):
    text = MODULES[module].read_text(encoding="utf-8")

    assert ast.get_docstring(ast.parse(text)), f"{module} has no docstring"
    assert len(text.splitlines()) <= 400


def test_the_public_door_is_this_list():
    assert sorted(seggeo.__all__) == PUBLIC
    assert dir(seggeo) == PUBLIC
    for name in PUBLIC:
        assert getattr(seggeo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = seggeo.nothing


def test_every_option_is_a_setting_and_every_setting_an_option():
    from seggeo.cli import options
    from seggeo.cli.count_cells import count_cells
    from seggeo.cli.planning import plan_count_cells, plan_segment
    from seggeo.cli.segment import segment

    records = (config.Reading, config.Tiling, config.Merge, config.Output, config.Settings, config.Execution)
    settings = {name for record in records for name in config.field_names(record)}
    parameters, counting = set(signature(segment).parameters), set(signature(count_cells).parameters)

    assert parameters - options.NOT_SETTINGS == settings
    assert counting - options.NOT_SETTINGS <= settings
    planning = {*signature(plan_segment).parameters, *signature(plan_count_cells).parameters}
    assert planning - options.NOT_SETTINGS == settings - {"work", "dask"}
    assert parameters | counting | planning >= options.NOT_SETTINGS


def test_defaults_of_options_are_those_of_the_records():
    from seggeo.cli import options

    flat = options.defaults()
    for record in (config.Reading, config.Tiling, config.Merge, config.Output, config.Execution):
        for field in fields(record):
            assert flat[field.name] == getattr(record(), field.name)


def test_options_are_declared_once_under_the_name_of_their_setting():
    from typing import get_type_hints

    from seggeo.cli import options
    from seggeo.cli.segment import segment

    hints = get_type_hints(segment, include_extras=True)
    for name in set(signature(segment).parameters) - {"ctx", "inputs"}:
        info = hints[name].__metadata__[0]
        long = name.rstrip("_").replace("_", "-")

        # Inside Annotated, typer takes what would be the default's place for the first name.
        assert any(part == f"--{long}" for given in (info.default, *info.param_decls) for part in given.split("/")), name
        assert info.help
        if name not in options.NOT_SETTINGS:
            assert info.envvar == f"SEGGEO_{name.upper()}"
