"""A model of the user's own, straight from a Python file: `--model my_model.py:MyModel --set key=value`.

The class (or function that returns an object) is called with the settings as keyword arguments. The object needs one
method, `predict(tiles)`: it gets a list of arrays `(h, w, c)`, stretched uint8 RGB unless `native`, its own copies to
do with as it likes, and returns for each an `Instances`, a label image `(h, w)` of integers, or a dict of boolean
`masks (n, h, w)` with optional `scores (n,)` and `labels (n,)`. It may say more with these attributes:

* `native`: True for the file's own bands and dtype;
* `classes`: names of the labels, default `("object",)`;
* `exclusive`: False when masks of one tile may overlap, as they do when parts lie on wholes. Default True: then an
  overlap is painted flat, the higher score on top, with a warning. Said as True, an overlap is an error;
* `tile`, `overlap`: preferred window side and overlap, px;
* `name`: for provenance, default the class's name;
* `wants_places`: True for `predict(tiles, places)`, with a `Tile` record for each array;
* `context`, `stride`: px of image to see beyond each window, and the multiples at which what is seen begins; then it is
  `predict(tiles, places, extents)`: arrays cover `extents` (a `Window` each), results are still in pixels of the windows.

The file is code and runs with the rights of the user. Modules beside it can be imported at its top or in the
constructor, not later. Its sha256, with those modules, is recorded as the model's weights: an edited model is another job.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from seggeo.errors import ConfigError, ModelError
from seggeo.models.custom_results import to_instances
from seggeo.profiling import span
from seggeo.protocols import ModelInfo, ModelRequest, Prediction, TileImage


def load_custom(spec: str, request: ModelRequest) -> Custom:
    """The segmenter behind `file.py:Name`.

    Args:
        spec: Path of a Python file, a colon, and the name of a class or function in it.
        request: Its settings become keyword arguments; nothing else of it is used.

    Raises:
        ConfigError: No such file or name, or settings that it does not take.
        ModelError: The user's code failed, or what it made is not a model.
    """
    path, name = _parts(spec)
    if request.weights is not None:
        raise ConfigError(
            what=f"--weights {request.weights} has no meaning for {spec}",
            why="a model of your own gets its settings as keyword arguments and nothing else",
            mend=f"let {name} take a path and pass it: --set weights={request.weights}",
        )
    with _importing_from(path.parent) as digest_helpers:
        source = path.read_bytes()
        factory = _named(_execute(path, source), name, path)
        model = _construct(factory, name, request.settings, path)
        digest = digest_helpers(source)
    return Custom(model, _info(model, name, request.settings, digest))


class Custom:
    """Segmenter around an object of the user's; checks everything that comes back."""

    def __init__(self, model: Any, info: ModelInfo) -> None:
        self.model = model
        self.info = info

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """What the user's `predict` found; its own exceptions pass through.

        Raises:
            ModelError: A result that is not what the module's head allows; the message names the tile's place in the
                batch.
        """
        images = [np.array(tile.image, order="C", copy=True) for tile in tiles]
        places, extents = [tile.tile for tile in tiles], [tile.extent for tile in tiles]
        given: list[Any] = [images]
        if _sees_more(self.info):
            given = [images, places, extents]
        elif getattr(self.model, "wants_places", False):
            given = [images, places]
        try:
            results = self.model.predict(*given)
        except SystemExit as error:  # else the whole command would end here, and call it success
            raise ModelError(
                what=f"{self.info.name}.predict ended the program (exit code {error.code})",
                why="a model answers for its tiles, and the others' results would be lost",
                mend="let it raise an exception: sys.exit, exit and quit belong into scripts",
            ) from error
        is_stated = hasattr(self.model, "exclusive")
        shapes = [place.window.shape for place in places]
        with span("encode"):
            return [
                to_instances(result, shape, index, self.info, is_stated=is_stated)
                for index, (result, shape) in enumerate(zip(_listed(results, len(tiles), self.info.name), shapes, strict=True))
            ]


def _sees_more(info: ModelInfo) -> bool:
    """True when arrays may cover more than their tiles' windows."""
    return info.context > 0 or info.stride > 1


def _listed(results: Any, count: int, name: str) -> list[Any]:
    if isinstance(results, (list, tuple)) or (isinstance(results, np.ndarray) and results.ndim == 3):
        if len(results) == count:
            return list(results)
        found = f"{len(results)} results for {count} tiles"
    else:
        found = f"{type(results).__name__} where a list is needed"
    raise ModelError(
        what=f"{name}.predict returned {found}",
        why="it gets a list of arrays and returns a list with one result for each, in the same order",
        mend="return [one_result(tile) for tile in tiles], with an empty result for a tile without objects",
    )


def _parts(spec: str) -> tuple[Path, str]:
    file, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise ConfigError(
            what=f"{spec!r} is not a model of your own",
            why="that is a Python file, a colon and the name of a class or function in it",
            mend="use --model my_model.py:MyModel",
        )
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(
            what=f"there is no file {path}", why=f"--model {spec} names it", mend="give the path from here, or a full one"
        )
    return path, name


@contextmanager
def _importing_from(folder: Path) -> Iterator[Callable[[bytes], str]]:
    """While it lasts, modules beside the user's file can be imported; afterwards they are forgotten.

    Forgetting keeps two models with a `helper.py` each apart. Gives a function that returns the sha256 of a source
    and of the modules that were imported from the folder so far.
    """
    before = set(sys.modules)

    def own() -> dict[str, ModuleType]:
        new = {name: sys.modules[name] for name in sorted(set(sys.modules) - before)}
        return {name: module for name, module in new.items() if _is_beside(folder, name)}

    def digest(source: bytes) -> str:
        total = hashlib.sha256(source)
        for module in own().values():
            file = getattr(module, "__file__", None)
            total.update(Path(file).read_bytes() if file else b"")
        return total.hexdigest()

    sys.path.insert(0, str(folder))
    try:
        yield digest
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in own():
            del sys.modules[name]


def _is_beside(folder: Path, name: str) -> bool:
    """True for modules and packages that lie directly in the folder (an environment in it does not count)."""
    top = name.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and Path(file).resolve() in (folder / f"{top}.py", folder / top / "__init__.py")


def _execute(path: Path, source: bytes) -> ModuleType:
    """The module made of the very bytes that are hashed: a cached bytecode file could be older."""
    module = ModuleType(f"seggeo_custom_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up there
    try:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise _failure(f"{path.name} cannot be imported", error, path) from error
    return module


def _named(module: ModuleType, name: str, path: Path) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(module, name, None)
    if callable(found):
        return found
    own = [
        key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    near = get_close_matches(name, own, n=1)
    raise ConfigError(
        what=f"{path.name} has no class or function called {name}"
        if found is None
        else f"{name} in {path.name} is not callable",
        why=f"it defines: {', '.join(own) or 'none'}",
        mend=f"did you mean {path.name}:{near[0]}?" if near else "use --model file.py:Name with one of these",
    )


def _construct(factory: Callable[..., Any], name: str, settings: Mapping[str, Any], path: Path) -> Any:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a callable written in C says nothing; then it decides itself
        signature = None
    if signature is not None:
        try:
            signature.bind(**settings)
        except TypeError as error:
            raise ConfigError(
                what=f"{name} in {path.name} does not take these settings: {error}",
                why=f"it is defined as {name}{signature} and got {', '.join(sorted(settings)) or 'none'}",
                mend="--set key=value fills a keyword argument; give each one without a default, and no others",
            ) from error
    try:
        model = factory(**settings)
    except (Exception, SystemExit) as error:
        raise _failure(f"{name}({', '.join(f'{k}={v!r}' for k, v in settings.items())}) failed", error, path) from error
    if not callable(getattr(model, "predict", None)):
        raise ModelError(
            what=f"{name} in {path.name} gave a {type(model).__name__} without a method predict",
            why="predict(tiles) is the one thing a model needs",
            mend="define predict(self, tiles) that returns one label image, Instances or dict of masks per tile",
        )
    return model


def _failure(what: str, error: BaseException, path: Path) -> ModelError:
    """The refusal of code that raised, with the user's own line where one is known."""
    reason = f"{type(error).__name__}: {error}"
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        where = f"line {error.lineno}: {(error.text or '').strip()}"
    elif lines:
        where = f"line {lines[-1].lineno}: {lines[-1].line}"
    else:
        where = "no line of the file itself"
    return ModelError(what=what, why=f"{reason}, at {path.name} {where}", mend=f"repair it; try: python {path.name}")


def _info(model: Any, name: str, settings: Mapping[str, Any], digest: str) -> ModelInfo:
    native = _attribute(model, "native", bool, False, name)
    classes = getattr(model, "classes", ("object",))
    if isinstance(classes, str) or not classes or not all(isinstance(c, str) for c in classes):
        raise ModelError(
            what=f"{name}.classes is {classes!r}", why="it names the labels, in order", mend='write classes = ("car", "house")'
        )
    return ModelInfo(
        name=_attribute(model, "name", str, name, name), classes=tuple(classes), native=native, channels=None if native else 3,
        exclusive=_attribute(model, "exclusive", bool, True, name), weights_sha256=digest, settings=dict(settings),
        tile=_attribute(model, "tile", int, None, name), overlap=_attribute(model, "overlap", int, None, name),
        context=_attribute(model, "context", int, 0, name), stride=_attribute(model, "stride", int, 1, name),
    )  # fmt: skip


def _attribute(model: Any, key: str, kind: type, default: Any, name: str) -> Any:
    value = getattr(model, key, default)
    if value is default or type(value) is kind:
        return value
    raise ModelError(
        what=f"{name}.{key} is {value!r}",
        why=f"it must be of type {kind.__name__}",
        mend=f"write {key} = {default!r}, or leave it out",
    )
