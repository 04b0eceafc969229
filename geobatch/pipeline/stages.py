"""The flag `--stages`: what single stages ask of a cluster, in place of what their method asks for.

    --stages Decode:workers=32 Embed:gpus=0.5,accelerator=L4,workers=8

Names are those that Ray's plan and the account show, in any case. What is not named stays as the method has it. Nothing of it
decides a row, so a run may be taken up with other hands.

Where a stage computes stands in its arguments, so these change with its GPUs: one that pays for a GPU computes on it, and one
that was given none does not look for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from geobatch.actors import Hands
from geobatch.errors import UserError

#: Stages that every flow adds to its river.
ENDS = ("Read", "Write")

_FORM = "write NAME:KEY=VALUE,KEY=VALUE, such as Embed:gpus=0.5,workers=8"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one stage asks for instead; None leaves it.

    Fields:
        stage: its name.
        workers: actors at most.
        least: actors at least, all of which must find room before the run starts.
        cpus, gpus: of one actor, fractions allowed.
        memory: GiB of heap that one actor asks for.
        accelerator: type of its GPU, as Ray names it, such as L4 or A100.
        resources: amounts of custom resources of one actor.
        labels: labels that its nodes must have.
    """

    stage: str
    workers: int | None = None
    least: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    memory: float | None = None
    accelerator: str | None = None
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def of(self, hands: Hands) -> Hands:
        """The stage's hands, changed."""
        changed: dict[str, Any] = {
            name: value
            for name in ("workers", "least", "cpus", "gpus", "accelerator")
            if (value := getattr(self, name)) is not None
        }
        if self.memory is not None:
            changed["memory"] = round(self.memory * (1 << 30))
        if "workers" in changed and "least" not in changed:
            changed["least"] = min(hands.least, changed["workers"])
        if self.gpus is not None:
            if self.gpus and hands.make.get("shards"):
                raise UserError(f"shards of a gallery are searched on the CPU; leave out shards, or {self.stage}:gpus")
            changed["make"] = _on(hands.make, self.gpus)
        made = replace(
            hands, **changed, resources={**hands.resources, **self.resources}, labels={**hands.labels, **self.labels}
        )
        if made.least > made.workers:
            raise UserError(f"{self.stage} would have at least {made.least} workers and at most {made.workers}; lower least")
        return made


def parsed(text: str) -> Asked:
    """One word of the flag.

    Raises:
        UserError: it has another form.
    """
    stage, colon, rest = text.partition(":")
    if not (stage and colon and rest):
        raise UserError(f"--stages {text!r} names no stage and what it asks for; {_FORM}")
    known: dict[str, Any] = {"resources": {}, "labels": {}}
    for pair in rest.split(","):
        key, equals, value = pair.partition("=")
        group, dot, name = key.partition(".")
        if not (equals and value):
            raise UserError(f"--stages {text!r}: {pair!r} is no KEY=VALUE; {_FORM}")
        if key in _VALUES:
            known[key] = _VALUES[key](text, key, value)
        elif dot and name and group == "resource":
            known["resources"][name] = _amount(text, key, value)
        elif dot and name and group == "label":
            known["labels"][name] = value
        else:
            raise UserError(f"--stages {text!r}: there is no {key!r}; use {', '.join(_VALUES)}, resource.NAME or label.NAME")
    return Asked(stage=stage, **known)


def applied(hands: Sequence[Hands], overrides: Iterable[str], others: Iterable[str] = ENDS) -> list[Hands]:
    """The river with what the flag asks for.

    Args:
        hands: stages, in order.
        overrides: words of the flag; later ones win.
        others: stages that may be named and are not in `hands`.

    Raises:
        UserError: a word has another form, or names no stage of these.
    """
    river, names = list(hands), [each.stage.__name__ for each in hands]
    for word in overrides:
        asked = parsed(word)
        meant = [at for at, name in enumerate(names) if name.lower() == asked.stage.lower()]
        if not meant and asked.stage.lower() not in {name.lower() for name in others}:
            there = dict.fromkeys([*names, *others])
            raise UserError(f"--stages {word!r}: there is no stage {asked.stage!r}; this run has {', '.join(there)}")
        for at in meant:
            river[at] = asked.of(river[at])
    return river


def _on(value: Any, gpus: float) -> Any:
    """A stage's arguments for that many GPUs."""
    if isinstance(value, dict):
        return {name: _said(name, each, gpus) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        fresh = copy.copy(value)  # its own checks were made, and know nothing of a path that is elsewhere by now
        for each in fields(value):
            object.__setattr__(fresh, each.name, _said(each.name, getattr(value, each.name), gpus))
        return fresh
    return value


def _said(name: str, value: Any, gpus: float) -> Any:
    """One argument, under the names that stages have for where they compute."""
    if name == "device" and value in ("cpu", "cuda"):
        return "cuda" if gpus else "cpu"
    if name == "gpu" and (value is None or isinstance(value, bool)):
        return gpus > 0
    if name == "gpus":
        return gpus
    if name == "tensor_parallel":
        return max(1, int(gpus)) if gpus else value
    return _on(value, gpus)


def _count(text: str, key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UserError(f"--stages {text!r}: {key} is a whole number from 1, not {value!r}; correct it")
    return int(value)


def _amount(text: str, key: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not (math.isfinite(amount) and amount >= 0):
        raise UserError(f"--stages {text!r}: {key} is a number from 0, not {value!r}; correct it")
    return amount


def _gpus(text: str, key: str, value: str) -> float:
    amount = _amount(text, key, value)
    if amount > 1 and amount != int(amount):
        raise UserError(f"--stages {text!r}: an actor has a share of one GPU or several whole ones, not {value}; correct it")
    return amount


def _word(text: str, key: str, value: str) -> str:
    return value


_VALUES: dict[str, Callable[[str, str, str], Any]] = {
    "workers": _count,
    "least": _count,
    "cpus": _amount,
    "gpus": _gpus,
    "memory": _amount,
    "accelerator": _word,
}
