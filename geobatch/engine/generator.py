"""Multimodal LLMs as a desk that never closes: requests in, sampled replies out, and no request can take another with it.

`Generator` holds one backend (`served`: vLLM, `plain`: transformers, `scripted`: a table) on an event loop of its own and may
be asked from several threads at once, so that the requests of one slice enter while those of the slice before finish and the
engine never runs dry. What happens to a request:

- it is refused by the model (too long, unknown input): a fault of its own, at once;
- it is not answered within its deadline: a fault "timeout". The engine is probed with one token then, and counts as dead when
  it answers neither that nor anybody else;
- the engine dies: it is started again, and all that were under way are **suspects**. They are tried once more together (an
  engine may die of its machine), then in halves, each half alone, down to the one that kills: 2 · log2(suspects) restarts
  for one killer. New requests wait meanwhile. A killer gets the fault "crashed";
- the backend raises what nobody foresaw: a fault "failed" of this request, so that its neighbours are not asked again;
- an engine that cannot be started, or does not answer the probe after a start, or that `KILLERS` requests in a row seem to
  kill, is the machine's fault: `MachineError` for everyone who waits. Ray does not repeat a slice for an error that its stage
  raised; the run's next pass over what is not committed does.

What this does not cover: a request that spoils the replies of others without killing anything.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from geobatch.engine.request import Backend, Dead, Reply, Request, Sampling
from geobatch.errors import MachineError, Rejection, UserError

#: Requests that kill the engine one after another, none answered between, before the machine is held to be at fault.
KILLERS = 8

#: Attempts to start an engine.
STARTS = 2


@dataclass(eq=False)
class _Ticket:
    request: Request
    sampling: Sampling
    reply: Reply | None = None


@dataclass
class _Health:
    """Counts of one generator's life."""

    deaths: int = 0
    answered: int = 0
    killers: int = 0
    engine: int = 0


class _Places:
    """A semaphore of which one may take several at once; whoever wants more than there are takes all."""

    def __init__(self, count: int) -> None:
        self.count = self.free = count
        self.freed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, wanted: int) -> AsyncIterator[None]:
        places = min(wanted, self.count)
        async with self.freed:
            await self.freed.wait_for(lambda: self.free >= places)
            self.free -= places
        try:
            yield
        finally:
            async with self.freed:
                self.free += places
                self.freed.notify_all()


class Generator:
    """A backend that is asked from any thread, restarted when it dies, and never given up for one request.

    Args:
        backend: not yet open; it is opened here.
        in_flight: replies under way at most, over all requests.
        deadline_s: seconds of one request, from when it is under way.

    Raises:
        MachineError: the backend does not start.
        UserError: the backend says the model or its settings cannot work.
    """

    def __init__(self, backend: Backend, in_flight: int = 256, deadline_s: float = 600.0, probe_s: float = 120.0) -> None:
        self.backend, self.deadline_s, self.probe_s = backend, deadline_s, probe_s
        self.health = _Health()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="generator", daemon=True)
        self._thread.start()
        self._places, self._gate, self._probing = _Places(in_flight), asyncio.Event(), asyncio.Lock()
        self._under_way: set[_Ticket] = set()
        self._broken: Exception | None = None
        self._starting, self._lived = True, -math.inf
        self._examining: asyncio.Task[None] | None = None
        try:
            self._wait(self._start())
        except BaseException:
            self.close()
            raise
        self._loop.call_soon_threadsafe(self._gate.set)

    def ask(self, requests: Sequence[Request], sampling: Sampling) -> list[Reply]:
        """The replies, in order. May be called from several threads at once.

        Raises:
            MachineError: the engine could not be brought back.
            UserError: the backend says that its settings cannot work.
        """
        return self._wait(self._all([_Ticket(request, sampling) for request in requests]))

    def close(self) -> None:
        """Stops the backend and the loop."""
        if self._loop.is_closed():
            return
        self._wait(self.backend.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    async def _all(self, tickets: list[_Ticket]) -> list[Reply]:
        return list(await asyncio.gather(*(self._reply(ticket) for ticket in tickets)))

    async def _reply(self, ticket: _Ticket) -> Reply:
        async with self._places.taken(ticket.sampling.draws if ticket.sampling.temperature > 0 else 1):
            while ticket.reply is None:
                await self._gate.wait()
                if self._broken is not None:
                    raise self._broken
                if ticket.reply is None:
                    await self._attempt(ticket)
            return ticket.reply

    async def _attempt(self, ticket: _Ticket) -> None:
        self._under_way.add(ticket)
        engine = self.health.engine
        try:
            ticket.reply = await self._once(ticket)
        except Dead:
            # The first to notice; all under way now are suspects. Whoever waited for an engine that is gone already, and
            # was answered or is to be asked again, must not take the new one down.
            if self._gate.is_set() and self.health.engine == engine:
                self._gate.clear()
                self._starting = True
                self._examining = asyncio.create_task(self._examine(list(self._under_way)))
        finally:
            self._under_way.discard(ticket)

    async def _once(self, ticket: _Ticket) -> Reply:
        engine = self.health.engine
        try:
            async with asyncio.timeout(self.deadline_s):
                reply = await self.backend.answer(ticket.request, ticket.sampling)
        except Rejection as fault:
            return Reply(fault=fault)
        except TimeoutError:
            if not await self._lives(engine):
                raise Dead from None
            return Reply(fault=Rejection("timeout", f"no reply within {self.deadline_s:g} s"))
        except (Dead, UserError, MachineError):
            raise
        except Exception as error:  # noqa: BLE001  raised, it would have the stage ask the whole slice again, in halves
            return Reply(fault=Rejection("failed", f"{type(error).__name__}: {error}"))
        self.health.answered += 1
        self.health.killers = 0
        return reply

    async def _lives(self, engine: int) -> bool:
        """Whether the engine still answers: somebody, or the probe (a full one may keep even one token waiting)."""
        async with self._probing:
            if self.health.engine != engine or self._starting:
                return False
            if self._loop.time() - self._lived < min(1.0, self.deadline_s / 2):
                return True
            answered = self.health.answered
            lives = await self._probe() or self.health.answered > answered
            if lives and self.health.engine == engine and not self._starting:
                self._lived = self._loop.time()
                return True
            return False

    async def _probe(self) -> bool:
        hello = Request("probe", [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}])
        try:
            async with asyncio.timeout(self.probe_s):
                await self.backend.answer(hello, Sampling(max_tokens=1))
        except (Dead, TimeoutError):
            return False
        except (UserError, MachineError):
            raise
        except Exception:  # noqa: BLE001  a model that refuses text alone, or cannot read it, is alive
            return True
        return True

    async def _start(self) -> None:
        self._starting, self._lived = True, -math.inf
        for attempt in range(STARTS):
            await self.backend.close()
            try:
                await self.backend.open()
            except Dead as error:
                if attempt + 1 == STARTS:
                    raise MachineError(f"the engine does not start: {error}") from None
                continue
            if await self._probe():
                self.health.engine += 1
                self._starting = False
                return
        raise MachineError(f"the engine starts and then does not answer one token within {self.probe_s:g} s")

    async def _examine(self, suspects: list[_Ticket]) -> None:
        try:
            self.health.deaths += 1
            await self._start()
            await self._sift(suspects, again=True)
        except Exception as error:  # noqa: BLE001  whoever waits must hear of it, whatever it is
            known = isinstance(error, MachineError | UserError)
            self._broken = error if known else MachineError(f"{type(error).__name__}: {error}")
        finally:
            self._gate.set()

    async def _sift(self, suspects: list[_Ticket], again: bool) -> None:
        group = [ticket for ticket in suspects if ticket.reply is None]
        if not group or not await self._died(group):
            return
        self.health.deaths += 1
        await self._start()
        left = [ticket for ticket in group if ticket.reply is None]
        if len(left) == 1 and not again:
            self._condemn(left[0])
        elif len(left) == 1:
            await self._sift(left, again=False)
        else:
            middle = len(left) // 2
            await self._sift(left[:middle], again=False)
            await self._sift(left[middle:], again=False)

    async def _died(self, group: list[_Ticket]) -> bool:
        async def tried(ticket: _Ticket) -> bool:
            try:
                ticket.reply = await self._once(ticket)
            except Dead:
                return True
            return False

        return any(await asyncio.gather(*(tried(ticket) for ticket in group)))

    def _condemn(self, ticket: _Ticket) -> None:
        self.health.killers += 1
        if self.health.killers > KILLERS:
            raise MachineError(f"the engine died of {self.health.killers} requests in a row; look at the machine, not at them")
        ticket.reply = Reply(fault=Rejection("crashed", "the engine died of this request alone, twice"))
