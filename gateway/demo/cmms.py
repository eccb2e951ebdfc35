"""A demonstration CMMS: it speaks MaintainX's interface for meters, readings, work orders and assets,
enforces the documented limits, and can be told to fail. Its people open and close work orders by themselves.

Everything is in memory. Each rule has its source beside it; what the reference leaves open is said too. The
daemon never imports this.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from gateway import clock
from gateway.demo.answers import invalid_answer, json_answer
from gateway.demo.meters import DemoMeter, DemoMeters
from gateway.demo.work_orders import DemoRefusal, Workshop, text

_MOMENTS = 4  # in which the people look around while they are at a work order


@dataclass(slots=True)
class Switches:
    """What the CMMS does wrong at the moment; set in place, or through POST /_control."""

    answer_500: bool = False
    slow_seconds: float = 0.0
    revoke_key: bool = False
    rate_limit: int = 100
    """Calls per 60 s. MaintainX public API reference: rate limits: 100 requests per 60 s for a user, and for
    /meterreadings.
    """


class _DemoServer(uvicorn.Server):
    """Leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class DemoCmms:
    """`async with DemoCmms(meters=["pump-1 temperature"]) as cmms:` serves at `cmms.url` (the API's base, for
    `settings.base_url`).
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str = "demonstration-key",
        meters: Iterable[str] = (),
        host: str = "127.0.0.1",
        people_seconds: float | None = None,
    ) -> None:
        """`people_seconds`: how long its people are at a work order, who act by themselves then; None: nobody
        acts.
        """
        self.api_key = api_key
        self.new_key: str | None = None
        """Issued while the key is revoked: in force from its first use on, or from `take_up_key`."""
        self.switches = Switches()
        self.requests: dict[str, int] = {}
        self._meters = DemoMeters()
        self.workshop = Workshop()
        self._people_seconds = people_seconds
        self._people: asyncio.Task[None] | None = None
        self._host, self._port = host, port
        self._window_ends = 0.0
        self._calls_left = 0
        self._server: _DemoServer | None = None
        self._task: asyncio.Task[None] | None = None
        for name in meters:
            self.add_meter(name)

    @property
    def url(self) -> str:
        """Base address of the API."""
        return f"http://{self._host}:{self._port}/v1"

    @property
    def control_url(self) -> str:
        """Where the switches are set; GET `<control_url>/state` for the counts."""
        return f"http://{self._host}:{self._port}/_control"

    def add_meter(self, name: str, *, unit: str | None = None) -> int:
        """The id of a new meter."""
        shop = self.workshop
        device = name.rpartition(" ")[0]  # a meter is called `{device} {metric}`
        asset = shop.assets[shop.add_asset(device, clock.now())].document() if device else None
        return self._meters.add(name, unit=unit, asset=asset)

    @property
    def meters(self) -> dict[int, DemoMeter]:
        """By their number."""
        return self._meters.by_id

    async def __aenter__(self) -> DemoCmms:
        listener = socket.create_server((self._host, self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = _DemoServer(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="demo.cmms")
        if self._people_seconds is not None:
            self._people = asyncio.create_task(self._work(self._people_seconds), name="demo.people")
        return self  # the listener queues what comes before the server runs

    async def __aexit__(self, *_: object) -> None:
        if self._people is not None:
            self._people.cancel()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    async def _work(self, busy_seconds: float) -> None:
        while True:
            await asyncio.sleep(busy_seconds / _MOMENTS)
            self.workshop.act(clock.now(), busy_seconds=busy_seconds)

    def take_up_key(self) -> None:
        """The new key is the key; nothing happens where there is none."""
        if self.new_key is not None:
            self.api_key, self.new_key, self.switches.revoke_key = self.new_key, None, False

    def _admits(self, authorization: str | None) -> bool:
        if self.new_key is not None and authorization == f"Bearer {self.new_key}":
            self.take_up_key()
        return not self.switches.revoke_key and authorization == f"Bearer {self.api_key}"

    def state(self) -> dict[str, object]:
        """Requests by route and status, readings and repeats of (meter, readingDate), and each meter's."""
        readings = {meter.name: sum(map(len, meter.readings.values())) for meter in self.meters.values()}
        repeats = sum(meter.repeats for meter in self.meters.values())
        return {
            "requests": self.requests,
            "readings": sum(readings.values()),
            "repeats": repeats,
            "by_meter": readings,
            "work_orders": self.workshop.counts(),
        }

    def control(self, wanted: object) -> str | None:
        """Sets switches from a JSON object; the fault, if it has an unknown key or a wrong type, and then
        changes nothing.
        """
        if not isinstance(wanted, dict):
            return "expected an object"
        kinds = {switch.name: type(getattr(self.switches, switch.name)) for switch in fields(Switches)}
        for key, value in wanted.items():
            kind = kinds.get(key)
            if (
                kind is None
                or (isinstance(value, bool) is not (kind is bool))
                or not isinstance(value, int | float)
            ):
                return f"{key}: expected one of {', '.join(kinds)} with a value of its type"
        for key, value in wanted.items():
            setattr(self.switches, key, kinds[key](value))
        return None

    def _application(self) -> FastAPI:
        application = FastAPI(openapi_url=None)

        @application.post("/_control")
        async def control(request: Request) -> Response:
            fault = self.control(orjson.loads(await request.body()))
            return json_answer(400, {"error": fault}) if fault else json_answer(200, {})

        @application.get("/_control/state")
        async def state() -> Response:
            return json_answer(200, self.state())

        @application.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        async def api(request: Request, path: str) -> Response:
            response = await self._answer(request, path)
            route = f"{request.method} /{path} {response.status_code}"
            self.requests[route] = self.requests.get(route, 0) + 1
            response.headers["x-request-id"] = f"demo-{sum(self.requests.values())}"
            return response

        return application

    async def _answer(self, request: Request, path: str) -> Response:
        body = await request.body()
        if self.switches.slow_seconds:
            await asyncio.sleep(self.switches.slow_seconds)
        if self.switches.answer_500:
            return json_answer(500, {"error": "Internal server error"})
        # MaintainX public API reference: authentication: bearer key; a key that is unknown or revoked gets
        # 401 with an empty body.
        if not self._admits(request.headers.get("authorization")):
            return Response(status_code=401)
        # MaintainX public API reference: rate limits: X-Rate-Limit-* on every response, -Reset in seconds to
        # wait; 429 with `error`.
        left, reset = self._take_call()
        response = (
            json_answer(429, {"error": "Too many requests"}) if left < 0 else self._route(request, path, body)
        )
        response.headers.update(
            {
                "x-rate-limit-limit": str(self.switches.rate_limit),
                "x-rate-limit-remaining": str(max(0, left)),
                "x-rate-limit-reset": str(reset),
            }
        )
        return response

    def _take_call(self) -> tuple[int, int]:
        now = clock.monotonic()
        if now >= self._window_ends:
            self._window_ends, self._calls_left = now + 60.0, self.switches.rate_limit
        self._calls_left = min(self._calls_left, self.switches.rate_limit) - 1
        return self._calls_left, math.ceil(self._window_ends - now)

    def _route(self, request: Request, path: str, body: bytes) -> Response:
        match request.method, path:
            case "GET", "meters":
                return self._meters.page(request.query_params, f"{self.url}/meters")
            case "POST", "meterreadings":
                return self._meters.take_readings(body)
            case _:
                return self._answer_work(request, path, body)

    def _answer_work(self, request: Request, path: str, body: bytes) -> Response:
        try:
            return self._route_work(request, path, body)
        except DemoRefusal as fault:
            return invalid_answer(fault.error, fault.path, fault.value)
        except orjson.JSONDecodeError:
            return invalid_answer("body is not JSON", "", "")

    def _route_work(self, request: Request, path: str, body: bytes) -> Response:
        """MaintainX public API reference: work orders, their comments, assets. Raises DemoRefusal."""
        shop, now, query = self.workshop, clock.now(), request.query_params.multi_items()
        place, _, rest = path.partition("/")
        number, _, part = rest.partition("/")
        order = shop.orders.get(int(number)) if number.isdigit() else None
        match request.method, place, part:
            case "GET", "assets", "" if not rest:
                return json_answer(200, shop.list_assets(query))
            case "GET", "workorders", "" if not rest:
                return json_answer(200, shop.list_orders(query))
            case "POST", "workorders", "" if not rest:
                return json_answer(200, {"id": shop.create(orjson.loads(body), now)})
            case _ if place != "workorders" or order is None:
                return json_answer(404, {"error": "Not found"})
            case "GET", _, "":
                return json_answer(200, {"workOrder": order.document()})
            case "PATCH", _, "":
                shop.change(order.id, orjson.loads(body), now)
                return json_answer(200, {"workOrder": order.document()})
            case "DELETE", _, "":
                shop.remove(order.id)
                return Response(status_code=204)
            case "GET", _, "comments":
                comments = [
                    {"id": made, "authorId": 1, "content": content, "createdAt": text(at)}
                    for made, content, at in order.comments
                ]
                return json_answer(200, {"comments": comments, "nextCursor": None, "nextPageUrl": None})
            case "POST", _, "comments":
                document = orjson.loads(body)
                content = document.get("content") if isinstance(document, dict) else None
                if not isinstance(content, str) or not content:
                    raise DemoRefusal("content must be a non-empty string", "content", content)
                return json_answer(201, {"id": shop.comment(order.id, content, now)})
            case _:
                return json_answer(404, {"error": "Not found"})
