"""The keys that a class makes in a recipe: names, types, defaults and texts, from its signature and docstring."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import yaml

import modules

REQUIRED = inspect.Parameter.empty
"""The default of a key that has none."""


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    Args:
        name: dotted.
        kind: its type.
        default: its default, or `REQUIRED`.
        text: of the docstring.
    """

    name: str
    kind: Any
    default: Any
    text: str

    @property
    def setting(self) -> str:
        """Type and default in short."""
        if self.default is None or self.default is REQUIRED:
            return short_type(self.kind)
        default = yaml.safe_dump(self.default, default_flow_style=True).removesuffix("...\n").strip()
        return f"{short_type(self.kind)} = {default}"

    @property
    def nested(self) -> type | None:
        """The dataclass whose fields are keys below this one, or of every entry of its list."""
        return next((kind for kind in _parts(self.kind) if isinstance(kind, type) and is_dataclass(kind)), None)

    @property
    def choices(self) -> list[str]:
        """Class paths of the classes of `modules` that can be its value."""
        bases = tuple(kind for kind in _parts(self.kind) if isinstance(kind, type) and not is_dataclass(kind))
        public = {name: getattr(modules, name) for name in dir(modules)}
        return [
            f"modules.{name}"
            for name, kind in public.items()
            if isinstance(kind, type) and issubclass(kind, bases) and kind not in bases
        ]


def keys_of(
    owner: type, skipped: Collection[str] = (), types: Mapping[str, tuple[Any, Any]] | None = None, prefix: str = ""
) -> list[Key]:
    """Return the keys that the arguments of a class make, in order.

    Args:
        owner: the class.
        skipped: arguments that are no keys.
        types: type and default of keys that differ from those of the argument.
        prefix: of their names.
    """
    initialize: Callable[..., None] = owner.__init__  # type: ignore[misc]
    hints = get_type_hints(initialize)
    documented = [inspect.getdoc(initialize), *(kind.__doc__ for kind in owner.__mro__)]
    texts = {
        param.arg_name: param.description or ""
        for text in reversed(documented)
        for param in docstring_parser.parse(inspect.cleandoc(text or "")).params
    }
    found = []
    for name, default in _defaults(owner).items():
        kind, default = (types or {}).get(name, (hints.get(name, Any), default))
        text = " ".join(texts.get(name, "").replace("`", "").split())
        if name in skipped:
            continue
        if is_dataclass(default) and not isinstance(default, type):
            found += keys_of(type(default), prefix=f"{prefix}{name}.")
        else:
            found.append(Key(prefix + name, kind, default, text))
    return found


def _defaults(owner: type) -> dict[str, Any]:
    """Return the default of every argument of a class."""
    made = {}
    if is_dataclass(owner):
        made = {f.name: f.default_factory() for f in fields(owner) if f.default_factory is not MISSING}
    return {name: made.get(name, param.default) for name, param in inspect.signature(owner).parameters.items()}


def short_type(kind: Any) -> str:
    """Return a type as a user says it; None is left out, since any key that may be null is so by default."""
    origin, arguments = get_origin(kind), [part for part in get_args(kind) if part is not NoneType]
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (Union, UnionType):
        return "|".join(dict.fromkeys(map(short_type, arguments)))
    if _is_mapping(origin):
        return f"{{name: {short_type(arguments[1])}}}"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"[{short_type(arguments[0])}, ...]"
    if is_dataclass(kind):
        return "{...}"
    return kind.__name__ if kind in (int, float, str, bool, dict) else "class"


def _parts(kind: Any) -> Iterator[Any]:
    """Return the types that a type is made of, those of keys of dictionaries aside."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None:
        yield kind
    elif origin is not Literal:
        for part in arguments[1:] if _is_mapping(origin) else arguments:
            yield from _parts(part)


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)
