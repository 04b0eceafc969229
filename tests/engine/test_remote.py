"""A real HTTP server on loopback: what is sent, what comes back, and everything that can go wrong on the way."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from geobatch.engine.generator import Generator
from geobatch.engine.remote import KEY, Endpoint, Remote
from geobatch.engine.request import Reply, Request, Sampling
from geobatch.errors import MachineError, UserError
from geobatch.methods.geolocsft.prompts import GEO_CAPTION, messages, teacher
from tests.conftest import free_port
from tests.engine.endpoint import Answer, completion, fault, served

PICTURE = np.random.default_rng(0).integers(0, 256, (120, 130, 3), np.uint8)
HELLO = "Hello"


def is_probe(body: dict[str, Any]) -> bool:
    return body["max_tokens" if "max_tokens" in body else "max_completion_tokens"] == 1


def asked(key: str = "a", picture: Any = PICTURE) -> Request:
    return Request(key, messages(teacher(48.85837, 2.29448, key)), picture)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Generator]]:
    """Generators in front of a URL, closed at the end."""
    monkeypatch.setenv(KEY, "sk-secret")
    made: list[Generator] = []

    def make(url: str, deadline_s: float = 20.0, **settings: Any) -> Generator:
        backend = Remote(Endpoint(url=url, model="m", **settings), backoff_s=0.02)
        made.append(Generator(backend, in_flight=64, deadline_s=deadline_s, probe_s=10))
        return made[-1]

    yield make
    for each in made:
        each.close()


def one(desk: Callable[..., Generator], answers: Callable[[dict[str, Any]], Answer], **settings: Any) -> Reply:
    """What comes of one request, where the probe is answered as it should be."""
    with served(lambda body: completion(HELLO) if is_probe(body) else answers(body)) as server:
        return desk(server.url, **settings).ask([asked()], Sampling(max_tokens=100))[0]


def test_what_is_sent_and_what_comes_back(desk: Callable[..., Generator]) -> None:
    with served(lambda body: completion(*["a place"] * body["n"])) as server:
        sampling = Sampling(draws=3, temperature=0.7, top_p=0.9, max_tokens=50, schema=json.dumps(GEO_CAPTION))
        reply = desk(server.url).ask([asked()], sampling)[0]
    assert [sample.text for sample in reply.samples] == ["a place"] * 3
    assert {sample.finish for sample in reply.samples} == {"stop"} and reply.prompt_tokens == 7
    assert math.isnan(reply.samples[0].logprob)
    sent, headers = server.bodies[-1], server.headers[-1]
    assert server.paths[-1] == "/v1/chat/completions" and headers["authorization"] == "Bearer sk-secret"
    assert (sent["model"], sent["n"], sent["temperature"], sent["top_p"], sent["max_tokens"]) == ("m", 3, 0.7, 0.9, 50)
    assert sent["seed"] == sampling.seed_of("a")
    assert sent["response_format"]["json_schema"]["schema"] == GEO_CAPTION
    jsonschema.Draft202012Validator.check_schema(sent["response_format"]["json_schema"]["schema"])
    system, user = sent["messages"]
    assert system == messages(teacher(0, 0, "a"))[0]
    kind, data = user["content"][0]["image_url"]["url"].split(",", 1)
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (130, 120)
    assert "48.85837" in user["content"][1]["text"]


def test_greedy_is_one_draw(desk: Callable[..., Generator]) -> None:
    with served(lambda body: completion(*["x"] * body["n"])) as server:
        assert len(desk(server.url).ask([asked()], Sampling(draws=5))[0].samples) == 1
    assert server.bodies[-1]["temperature"] == 0 and "response_format" not in server.bodies[-1]


def test_requests_are_under_way_together_and_no_more_than_allowed(desk: Callable[..., Generator]) -> None:
    def slow(body: dict[str, Any]) -> Answer:
        answer = completion(body["messages"][1]["content"][1]["text"])
        answer.seconds = 0 if is_probe(body) else 0.2
        return answer

    with served(lambda body: completion(HELLO) if is_probe(body) else slow(body)) as server:
        generator = desk(server.url, in_flight=8)
        started = time.monotonic()
        replies = generator.ask([asked(f"n{n}") for n in range(24)], Sampling(max_tokens=9))
        assert time.monotonic() - started < 3
    assert 4 <= server.most_at_once <= 8
    assert all(f'"n{n}"' in reply.samples[0].text for n, reply in enumerate(replies))


@pytest.mark.parametrize(
    "trouble",
    [
        fault(429, "slow down", **{"Retry-After": "0.1"}),
        fault(429, "slow down", **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        fault(500, "oops"),
        Answer("<html>bad gateway</html>", 502),
        fault(503, "loading"),
        Answer("not json at all"),
        Answer({"choices": []}),
        Answer("", hang_up=True),
    ],
)
def test_what_passes_is_asked_again(desk: Callable[..., Generator], trouble: Answer) -> None:
    left = [trouble, trouble]
    reply = one(desk, lambda _: left.pop() if left else completion("at last"))
    assert reply.samples[0].text == "at last" and not left


def test_retry_after_is_waited_for(desk: Callable[..., Generator]) -> None:
    left = [fault(429, "slow down", **{"Retry-After": "0.7"})]
    started = time.monotonic()
    one(desk, lambda _: left.pop() if left else completion("x"))
    assert time.monotonic() - started > 0.7


def test_what_does_not_pass_is_the_machines_fault(desk: Callable[..., Generator]) -> None:
    with pytest.raises(MachineError, match=r"did not answer in \d+ attempts: 503 loading"):
        one(desk, lambda _: fault(503, "loading"), patience_s=0.3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fault(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded"), "too_long"),
        (fault(413, "payload"), "too_long"),
        (fault(400, "rejected", "content_policy_violation"), "refused"),
        (fault(422, "image could not be read"), "failed"),
        (completion("", refusal="I cannot help with that"), "refused"),
        (completion("", finish="content_filter"), "refused"),
    ],
)
def test_what_is_the_requests_fault_is_its_rejection(desk: Callable[..., Generator], answer: Answer, reason: str) -> None:
    fate = one(desk, lambda _: answer).fault
    assert fate is not None and fate.reason == reason


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (fault(401, "bad key"), KEY),
        (fault(403, "not yours"), "403"),
        (fault(404, "no such model"), "no such model"),
        (Answer("", 307, {"Location": "http://127.0.0.1:1/"}), "307"),
        (fault(429, "pay first", "insufficient_quota"), "quota"),
    ],
)
def test_what_is_the_users_fault_is_said_at_once(desk: Callable[..., Generator], answer: Answer, match: str) -> None:
    with pytest.raises(UserError, match=match) as raised:
        one(desk, lambda _: answer)
    assert "sk-secret" not in str(raised.value)


def test_the_users_fault_shows_when_the_desk_opens(desk: Callable[..., Generator]) -> None:
    with served(lambda _: fault(401, "bad key")) as server, pytest.raises(UserError, match="bad key"):
        desk(server.url)


def test_a_url_where_nobody_listens_is_the_users_fault(desk: Callable[..., Generator]) -> None:
    with pytest.raises(UserError, match="nothing answers"):
        desk(f"http://127.0.0.1:{free_port()}/v1")


def test_a_cut_off_reply_says_so(desk: Callable[..., Generator]) -> None:
    assert one(desk, lambda _: completion('{"image_id":', finish="length")).samples[0].finish == "length"


def test_a_reply_that_does_not_come_is_a_timeout_and_the_others_are_answered(desk: Callable[..., Generator]) -> None:
    def answers(body: dict[str, Any]) -> Answer:
        answer = completion("x")
        answer.seconds = 3.0 if '"slow"' in json.dumps(body["messages"]).replace("\\", "") else 0.0
        return answer

    with served(lambda body: completion(HELLO) if is_probe(body) else answers(body)) as server:
        requests = [asked("slow"), asked("quick")]
        slow, quick = desk(server.url, deadline_s=1.0).ask(requests, Sampling(max_tokens=9))
    assert quick.samples[0].text == "x"
    assert slow.fault is not None and slow.fault.reason == "timeout"


def test_a_service_that_wants_the_other_name_of_the_limit_gets_it(desk: Callable[..., Generator]) -> None:
    def picky(body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return fault(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return completion(str(body["max_completion_tokens"]))

    with served(picky) as server:
        generator = desk(server.url)
        assert generator.ask([asked()], Sampling(max_tokens=77))[0].samples[0].text == "77"
    assert sum("max_tokens" in body for body in server.bodies) == 1


def test_without_a_key_none_is_sent(desk: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY)
    with served(lambda _: completion("x")) as server:
        desk(server.url).ask([asked()], Sampling())
    assert all("authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize("settings", [{"url": "ftp://x", "model": "m"}, {"url": "https://x"}, {"model": "m"}])
def test_half_an_endpoint_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(UserError):
        Endpoint(**settings)
