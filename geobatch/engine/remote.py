"""An OpenAI-compatible endpoint as a backend: the only place where pictures and prompts leave the cluster, and only where the
user names the URL.

One request is one POST to `URL/chat/completions`, the picture inside as a data URL; the API key comes from the environment of
the process that asks (`OPENAI_API_KEY`) and is in no setting, record or message. What the endpoint answers decides:

    429, 408, 5xx, a broken connection    asked again, as late as its Retry-After says, else after 1, 2, 4 … 60 s; when
                                          `patience_s` is over the machine is at fault (the run can be taken up later)
    401, 403, 404, a redirect, no quota   the user's settings are at fault, said at once
    400, 413, 422                         this request is at fault: "too_long", "refused" or "failed"
    finish "content_filter", a refusal    "refused"

Log-probabilities are not asked for, as half of such services have none: a sample's is NaN. Not covered: streaming, batch APIs,
endpoints that know no `response_format`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geobatch.engine.encode import encoded
from geobatch.engine.request import Reply, Request, Sample, Sampling
from geobatch.errors import MachineError, Rejection, UserError

KEY = "OPENAI_API_KEY"

#: Seconds between attempts at most, and until a connection must stand.
LONGEST, CONNECT = 60.0, 20.0

#: Connections refused before anything was ever answered, until the URL is held to be wrong.
_REFUSED = 3

_TOO_LONG = ("context_length", "context length", "too long", "maximum context", "too large")
_REFUSING = ("content_policy", "content_filter", "content management policy", "safety")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A service that the user names."""

    url: str = ""
    """Base URL of an OpenAI-compatible service, which pictures and coordinates are then sent to: https://…/v1."""
    model: str = ""
    """The service's name of the model; of the two, only this decides what a caption is."""
    in_flight: int = 16
    """Requests under way at most, for each actor."""
    patience_s: float = 300.0
    """Seconds for which a request is asked again while the service is overloaded or unreachable."""

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("https://", "http://")):
            raise UserError(f"{self.url} is no endpoint; give a URL that begins with https:// or http://")
        if bool(self.url) != bool(self.model):
            raise UserError("an endpoint needs both its URL and the name of a model; give both")


class _Again(Exception):
    """Worth another attempt, after so many seconds (None: as the backoff says)."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Remote:
    """The backend.

    Args:
        endpoint: where to ask.
        backoff_s: seconds before the second attempt; doubled for each further one.
    """

    def __init__(self, endpoint: Endpoint, backoff_s: float = 1.0) -> None:
        self.endpoint, self.backoff_s = endpoint, backoff_s
        self.answered = 0
        self._limit = "max_tokens"
        self._client: Any = None

    async def open(self) -> None:
        """See `Backend`."""
        import httpx

        key = os.environ.get(KEY, "")
        limits = httpx.Limits(max_connections=self.endpoint.in_flight)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=CONNECT),
            limits=limits,
        )

    async def close(self) -> None:
        """See `Backend`."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        """See `Backend`.

        Raises:
            Rejection: the service refuses this request.
            UserError: the settings are wrong.
            MachineError: the service stayed overloaded or unreachable.
        """
        body = await asyncio.to_thread(self._body, request, sampling)
        loop = asyncio.get_running_loop()
        until, attempt = loop.time() + self.endpoint.patience_s, 0
        while True:
            try:
                reply = await self._once(body)
                self.answered += 1
                return reply
            except _Again as why:
                attempt += 1
                pause = min(LONGEST, self.backoff_s * 2 ** (attempt - 1)) if why.after is None else why.after
                pause *= 1 + sampling.seed_of(request.key) % 997 / 9970  # whoever was turned away together comes back apart
                if loop.time() + pause > until:
                    raise MachineError(f"{self.endpoint.url} did not answer in {attempt} attempts: {why}") from None
                if not self.answered and attempt >= _REFUSED and why.args[0].startswith("ConnectError"):
                    raise UserError(
                        f"nothing answers at {self.endpoint.url} ({why}); check the flag that ends in endpoint.url"
                    ) from None
            await asyncio.sleep(pause)

    async def _once(self, body: dict[str, Any]) -> Reply:
        import httpx

        if self._limit != "max_tokens" and "max_tokens" in body:
            body[self._limit] = body.pop("max_tokens")
        try:
            got = await self._client.post(f"{self.endpoint.url.rstrip('/')}/chat/completions", json=body)
        except httpx.TransportError as error:
            raise _Again(f"{type(error).__name__}: {error}") from None
        if got.status_code == 200:
            return _read(got)
        if got.status_code in (408, 425, 429) or got.status_code >= 500:
            self._overloaded(got)
        if got.status_code in (400, 413, 422):
            self._at_fault(got, body)
        raise UserError(
            f"{self.endpoint.url} says {got.status_code} ({_said(got)[0]}); check {KEY} and the flags "
            "that end in endpoint.url and endpoint.model"
        )

    def _overloaded(self, got: Any) -> None:
        text, code = _said(got)
        if "insufficient_quota" in code:
            raise UserError(f"{self.endpoint.url} says that the quota is used up ({text}); raise it, then run again")
        after = _seconds(got.headers.get("retry-after", ""))
        raise _Again(f"{got.status_code} {text}", None if after is None else max(after, self.backoff_s))

    def _at_fault(self, got: Any, body: dict[str, Any]) -> None:
        text, code = _said(got)
        if "max_completion_tokens" in text and "max_tokens" in body:
            self._limit = "max_completion_tokens"  # newer models of one maker know the limit by this name only
            raise _Again(text, 0.0)
        both = f"{code} {text}".lower()
        if got.status_code == 413 or any(word in both for word in _TOO_LONG):
            raise Rejection("too_long", text)
        raise Rejection("refused" if any(word in both for word in _REFUSING) else "failed", text)

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [_message(each, request) for each in request.messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "n": sampling.draws if sampling.temperature > 0 else 1,
            "seed": sampling.seed_of(request.key),
        }
        if sampling.schema is not None:
            told = {"name": "reply", "strict": True, "schema": json.loads(sampling.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": told}
        if sampling.pattern is not None:
            body["guided_regex"] = sampling.pattern  # vLLM's own; others ignore it or refuse
        return body


def _message(message: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """The same message with the picture as a data URL."""
    parts = []
    for part in message["content"]:
        if part["type"] == "image":
            if request.picture is None:
                raise UserError(f"the prompt of {request.key} shows a picture and none was given: a bug, report it")
            data, kind = encoded(request.picture)
            url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        else:
            parts.append(dict(part))
    return {"role": message["role"], "content": parts}


def _read(got: Any) -> Reply:
    try:
        told = got.json()
        choices = [(choice["message"], choice.get("finish_reason") or "stop") for choice in told["choices"]]
        used = int((told.get("usage") or {}).get("prompt_tokens") or 0)
        if not choices:
            raise ValueError("no choices")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Again(f"an answer that is no chat completion ({type(error).__name__}: {error})") from None
    samples = []
    for message, finish in choices:
        if finish == "content_filter" or message.get("refusal"):
            raise Rejection("refused", str(message.get("refusal") or "the endpoint's content filter"))
        samples.append(Sample(message.get("content") or "", math.nan, (), (), "length" if finish == "length" else "stop"))
    return Reply(tuple(samples), prompt_tokens=used)


def _said(got: Any) -> tuple[str, str]:
    """The error's message, in one line of at most 200 characters, and its code."""
    try:
        error = got.json()["error"]
        text, code = (error["message"], f"{error.get('code')} {error.get('type')}") if isinstance(error, dict) else (error, "")
    except (ValueError, KeyError, TypeError):
        text, code = got.text or got.reason_phrase, ""
    return " ".join(str(text).split())[:200], code


def _seconds(text: str) -> float | None:
    """Of a Retry-After header, which may hold a date instead; at most `LONGEST`."""
    try:
        return min(LONGEST, max(0.0, float(text)))
    except ValueError:
        return None
