"""A change made to all that lies in a value, at any depth, without knowing what the value is.

The arguments of a stage are dictionaries, lists, tuples and dataclasses of settings. Paths in them are replaced on their way to
another node and found again there (`geobatch.store.travel`, `geobatch.nodes`). Both go this way, so that what one of them
finds the other finds as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any


def walked(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with `change` applied to all that is in it: in dicts, lists, tuples and dataclasses, at any depth.

    What knows where it lies on a node (it has a method `here`) is changed as a whole. That in which nothing changes is the same
    object. A dataclass that changes is copied, its own checks not made again: they know nothing of what stands for a path.
    """
    if isinstance(value, dict):
        held = {key: walked(each, change) for key, each in value.items()}
        return held if any(held[key] is not each for key, each in value.items()) else value
    if isinstance(value, list | tuple):
        parts = [walked(each, change) for each in value]
        if all(part is each for part, each in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "here"):
        before = {each.name: getattr(value, each.name) for each in fields(value)}
        after = {name: walked(each, change) for name, each in before.items()}
        if all(part is before[name] for name, part in after.items()):
            return value
        fresh = copy.copy(value)
        for name, part in after.items():
            object.__setattr__(fresh, name, part)
        return fresh
    return change(value)
