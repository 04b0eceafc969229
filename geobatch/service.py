"""Actors that answer a stage's questions, and are started again when they die.

A stage that needs more memory than one process has asks members that hold a part each: every question goes to all of them,
the stage puts the answers together. A service is described by values alone (a name, a class, arguments), so that it travels
to a stage's actors inside `Hands.make` or is worked out there anew; whoever asks finds the members by their names.

The driver of a run owns them (`serving`): they outlive any stage's actor, and die with the run. Where nobody has started
them the first to ask does. Ray starts a dead member again and asks it again, `TASK_RETRIES` times; a member whose owner died
is started anew by who asks next. So a question is answered, or raised as the machine's fault within its deadline; it is
never answered by some of the members.

Paths among a member's arguments travel as a stage's do (`geobatch.store.travel`): a folder fetched here is fetched where the
member lives.

Members are spread over the nodes. Those that only keep books ask Ray for no CPU and live anywhere. Heavy ones ask for some
(`cpus`), since a run that begins with the head alone would have them all there; what they ask for is counted with the stages
(`asking`), which hold their own while they wait for them. Without Ray the members live in this process.

Not covered: members that must not lose what they were told; they are made again from their arguments.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from geobatch.actors import TASK_RETRIES, Hands
from geobatch.errors import MachineError, UserError
from geobatch.nodes import brought
from geobatch.store.travel import outlined, travelling

#: Seconds within which a question must be answered, starting a dead member again included.
DEADLINE = 600.0


class Service:
    """Members of one class, each made with arguments of its own.

    Args:
        name: unique in the run; equal for all who mean the same members.
        member: a class; its methods are the questions.
        make: keyword arguments of each member, picklable and small.
        cpus: CPUs of each.
    """

    def __init__(self, name: str, member: type[Any], make: Iterable[Mapping[str, Any]], cpus: float = 0.0) -> None:
        self.name, self.member, self.make, self.cpus = name, member, [dict(each) for each in make], cpus
        self._handles: list[Any] = []
        self._here: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Service, (self.name, self.member, self.make, self.cpus)

    def start(self) -> None:
        """Starts the members that are not there; returns without waiting for them.

        Who has started them holds them: a second handle, which Ray finds by the name, keeps no actor alive, and in place of the
        first it would end the member with all that it was told (the ledger of deaths, at the beginning of a second pass).
        """
        self._handles = self._handles or [self._reach(number) for number in range(len(self.make))]

    def stop(self) -> None:
        """Ends the members. Safe to call twice."""
        for handle in self._handles if ray.is_initialized() else []:
            ray.kill(handle)
        self._handles, self._here = [], []

    def ask(self, method: str, *arguments: Any, deadline: float = DEADLINE) -> list[Any]:
        """Calls the method of every member; returns their answers in order.

        Raises:
            UserError: a member cannot be made from its arguments.
            MachineError: a member kept dying, or did not answer in time.
            Exception: whatever the method raised.
        """
        if not ray.is_initialized():
            self._here = self._here or [self.member(**each) for each in self.make]
            return [getattr(member, method)(*arguments) for member in self._here]
        given = [ray.put(each) for each in arguments]
        for attempt in range(TASK_RETRIES + 1):
            if not self._handles:
                self.start()
            try:
                answers: list[Any] = ray.get(
                    [handle.answer.remote(method, *given) for handle in self._handles], timeout=deadline
                )
                return answers
            except ray.exceptions.GetTimeoutError as error:
                raise MachineError(f"{self.name} did not answer within {deadline:.0f} s; run the same command again") from error
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayActorError as error:
                self._handles = []  # their owner is gone, or Ray gave up: start them anew, when their names are free
                time.sleep(attempt)
                if attempt == TASK_RETRIES:
                    raise MachineError(
                        f"members of {self.name} kept dying ({_line(error)}); run the same command again"
                    ) from error
        raise AssertionError("unreachable")

    def _reach(self, number: int) -> Any:
        return (
            ray.remote(_Member)
            .options(
                name=f"{self.name}-{number}",
                get_if_exists=True,
                num_cpus=self.cpus,
                max_restarts=-1,
                max_task_retries=TASK_RETRIES,
                scheduling_strategy="SPREAD",
            )
            .remote(self.member, travelling(self.make[number], mounted=True))
        )


class _Member:
    """What Ray keeps alive: the member, or the user's fault that kept it from being made (Ray would print its traceback)."""

    def __init__(self, member: type[Any], make: dict[str, Any]) -> None:
        self.fault: UserError | None = None
        try:
            self.member = member(**brought(make))
        except UserError as error:
            self.fault = error

    def answer(self, method: str, *arguments: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        return getattr(self.member, method)(*arguments)


def services(hands: Hands) -> list[Service]:
    """What a stage will ask: its class says so in a classmethod `services`, which takes the arguments of its constructor."""
    named = getattr(hands.stage, "services", None)
    return list(named(**outlined(hands.make))) if named is not None else []


def asking(river: Iterable[Hands]) -> list[Hands]:
    """What the members that a river's stages will ask need room for, each service as a stage that nothing flows through."""
    found = [service for hands in river for service in services(hands) if service.cpus and service.make]
    return [
        Hands(stage=each.member, workers=len(each.make), least=len(each.make), cpus=each.cpus, spread=True)
        for each in {each.name: each for each in found}.values()
    ]


@contextmanager
def serving(river: Iterable[Hands]) -> Iterator[None]:
    """Starts what the stages of the river will ask, owned by this process, and ends it after. Ray must be running."""
    started = [service for hands in river for service in services(hands)]
    try:
        for service in started:
            service.start()
        yield
    finally:
        for service in started:
            service.stop()


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
