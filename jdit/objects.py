# SPDX-License-Identifier: Apache-2.0
"""Parts as JSON, and back without running anybody's code."""

import ast
import dataclasses
import importlib
import math
from typing import Any

PACKAGE = "jdit."


def to_json(value: Any, *, strict: bool = True, where: str = "") -> Any:
    """A part (a frozen dataclass), as what `json.dumps` takes.

    A dataclass becomes {"class": "module:Name", "fields": {...}}, a tuple a list, a
    mapping {"items": {...}}, and a float that JSON lacks {"float": "inf"}.

    strict: raise TypeError for what `from_json` could not read; else write its repr as
        {"repr": "..."}, for records that are only looked at.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case list() | tuple():
            return [
                to_json(item, strict=strict, where=f"{where}[{i}]")
                for i, item in enumerate(value)
            ]
        case dict() if all(isinstance(key, str) for key in value):
            items = {
                key: to_json(item, strict=strict, where=f"{where}.{key}")
                for key, item in value.items()
            }
            return {"items": items}
    kind = type(value)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if dataclasses.is_dataclass(value) and (not strict or _is_ours(kind)):
        fields = {
            part.name: to_json(
                getattr(value, part.name), strict=strict, where=f"{where}.{part.name}"
            )
            for part in dataclasses.fields(value)
            if part.init
        }
        return {"class": name, "fields": fields}
    if not strict:
        return {"repr": repr(value)}
    raise TypeError(
        f"{where.lstrip('.') or 'the value'} is a {name}, but only frozen dataclasses "
        "of jdit, numbers, strings, tuples and None have a JSON form"
    )


def from_json(value: Any) -> Any:
    """The part that `to_json` wrote.

    Only frozen dataclasses of the jdit package are made, by their constructors; lists
    become tuples. ValueError names an unknown class or field. Nothing in the JSON is
    run or imported from elsewhere, so it may come from an untrusted place.
    """
    match value:
        case None | bool() | int() | str() | float():
            return value
        case list():
            return tuple(from_json(item) for item in value)
        case {"float": str(text)} if len(value) == 1:
            return float(text)
        case {"items": dict(items)} if len(value) == 1:
            return {key: from_json(item) for key, item in items.items()}
        case {"class": str(name), "fields": dict(fields)} if len(value) == 2:
            kind = class_named(name)
            known = {part.name for part in dataclasses.fields(kind) if part.init}
            for field in fields:
                if field not in known:
                    raise ValueError(
                        f"{name} has no field {field!r}; it has "
                        f"{', '.join(sorted(known)) or 'none'}"
                    )
            return kind(**{key: from_json(item) for key, item in fields.items()})
    shown = repr(value)
    raise ValueError(
        f"{shown if len(shown) < 80 else shown[:77] + '...'} is not the JSON form of a "
        "part of jdit"
    )


def from_text(text: str, known: dict[str, type], where: str) -> Any:
    """The part that is written as in Python, of these classes: "Reuse(3)".

    Only numbers, strings, tuples, dicts and these classes are made; nothing is run.

    Raises ValueError for anything else; what a class says of its arguments is its own.
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Call(ast.Name(name), args, keywords) if name in known:
                named = {str(k.arg): value(k.value) for k in keywords}
                return known[name](*map(value, args), **named)
            case ast.Dict(keys, values) if None not in keys:
                pairs = zip(keys, values, strict=True)
                return {ast.literal_eval(k): value(v) for k, v in pairs if k}
        return ast.literal_eval(node)

    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Call):
            return value(tree)
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"{where} is {text!r}, but {error}") from error
    except ValueError as error:
        if "malformed node" not in str(error):
            raise
    raise ValueError(
        f"{where} is {text!r}, but it must be written with {', '.join(sorted(known))}, "
        f"such as {next(iter(known))}()"
    )


def class_named(name: str) -> Any:
    """A frozen dataclass of the jdit package, from "jdit.module:Name"."""
    module, _, attribute = name.partition(":")
    kind = None
    if module.startswith(PACKAGE) and "." not in attribute:
        try:
            kind = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            kind = None
    if not isinstance(kind, type) or kind.__module__ != module or not _is_ours(kind):
        raise ValueError(
            f"there is no class {name!r}: a part must be a frozen dataclass in a "
            "module of jdit (perhaps of a newer version)"
        )
    return kind


def _is_ours(kind: type) -> bool:
    params = getattr(kind, "__dataclass_params__", None)
    return kind.__module__.startswith(PACKAGE) and params is not None and params.frozen
