"""`fieldgate webhooks`: endpoints that are told of events, what became of deliveries,
and doing them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Annotated, TypeVar
from uuid import UUID

import orjson
import typer
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.events import event_type
from gateway.cli.given import DEFAULT, Config, checked_name, duration
from gateway.cli.operate import Json, Operator, Yes, near_misses, operate
from gateway.cli.screen import Column
from gateway.credentials.endpoint_secrets import EndpointSealer
from gateway.events.webhook_service import WebhookService
from gateway.model.errors import RequestRefused
from gateway.store.webhooks import Endpoint, Sent

T = TypeVar("T")

app = typer.Typer(
    help="List, create, test, enable, disable or remove webhooks; show, resend or replay deliveries.",
    no_args_is_help=True,
)

Hook = Annotated[str, typer.Argument(metavar="HOOK", help="The webhook's id, as `webhooks list` shows it.")]

POLL_SECONDS = 0.2
ANSWER_SECONDS = 25.0
"""An attempt takes 15 s at most, unless `webhooks.timeout` says otherwise."""


@app.command("list")
def list_webhooks(
    config: Config = DEFAULT,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    json: Json = False,
) -> None:
    """List webhooks: whose, where, how many events wait, and since when one fails.

    Example: fieldgate webhooks list --customer acme
    """

    async def read(operator: Operator) -> list[Endpoint]:
        await operator.check_customer(customer)
        return await _service(operator).endpoints(customer=customer)

    found = operate(config, read)
    if json:
        _print([asdict(each) for each in found])
        return
    if not found:
        screen.console().print("no webhooks: `fieldgate webhooks create URL` makes one")
        return
    columns = (
        Column(name="webhook"),
        Column(name="customer", drop=2),
        Column(name="state"),
        Column(name="pending", numbers=True),
        Column(name="address", free=True),
    )
    screen.show(screen.console(), columns, [_row(each) for each in found])


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where events are posted: https://...")],
    config: Config = DEFAULT,
    customer: Annotated[
        str | None, typer.Option(help="It is told of this customer only; else of every one and the gateway.")
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="Only of this type; repeat it. By default every type.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a webhook. Its secret is printed once and cannot be read again.

    Example: fieldgate webhooks create https://hooks.example.com/fieldgate --customer acme --event
    connection.degraded
    """
    types = [event_type("--event", name) for name in event or ()]
    bound = None if customer is None else checked_name("--customer", customer)

    async def make(operator: Operator) -> tuple[Endpoint, str]:
        await operator.check_customer(bound)
        return await _service(operator).create(url, customer=bound, types=types)

    made, secret = operate(config, make)
    if json:
        _print({**asdict(made), "secret": secret})
        return
    print(secret)
    screen.console(error=True).print(
        Text(f"webhook {made.id}; the secret is shown once: give it to the endpoint", style="yellow")
    )


@app.command("test")
def send_test(hook: Hook, config: Config = DEFAULT, json: Json = False) -> None:
    """Send one event to this webhook alone, and say what the endpoint answered. A running gateway sends it.
    Exit code 1 where it was not taken.

    Example: fieldgate webhooks test 8c1f0a52d3b94e07
    """

    async def run(operator: Operator) -> Sent | None:
        await _known(operator, hook)
        event_id = await _service(operator).test(hook, customer=None)
        return await _awaited(operator, hook, event_id)

    _tell(hook, _with_progress(config, "waiting for the endpoint", run), json=json)


@app.command()
def resend(
    hook: Hook,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's id.")],
    config: Config = DEFAULT,
    json: Json = False,
) -> None:
    """Deliver one event again, with its own id and marked as a replay. Exit code 1 where it was not taken.

    Example: fieldgate webhooks resend 8c1f0a52d3b94e07 0b6f8c9e-6c1f-4a3e-9d0b-0c5d5f0f3a11
    """

    async def run(operator: Operator) -> Sent | None:
        await _known(operator, hook)
        before = await _one(operator, hook, event)
        await _service(operator).resend(hook, event, customer=None)
        return await _awaited(operator, hook, event, attempts=0 if before is None else before.attempt)

    _tell(hook, _with_progress(config, "waiting for the endpoint", run), json=json)


@app.command()
def replay(
    hook: Hook,
    config: Config = DEFAULT,
    since: Annotated[str, typer.Option(help="How far back, such as 2h; 30d is all that is kept.")] = "1d",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Deliver everything since then again, in order, with the old ids. A disabled webhook is enabled.

    Example: fieldgate webhooks replay 8c1f0a52d3b94e07 --since 2h --yes
    """
    begin = clock.now() - duration("--since", since)

    async def run(operator: Operator) -> int:
        await _known(operator, hook)
        screen.agree(f"Send everything of the last {since} to {hook} again?", yes=yes)
        return await _service(operator).replay(hook, customer=None, since=begin)

    count = operate(config, run)
    if json:
        _print({"webhook": hook, "replayed": count})
    else:
        screen.console().print(f"{screen.count(count, 'event')} to be delivered again")


@app.command()
def deliveries(
    hook: Hook,
    config: Config = DEFAULT,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many.")] = 50,
    json: Json = False,
) -> None:
    """List what became of deliveries, the newest event first: attempts, the next one, and why one was
    refused.

    Example: fieldgate webhooks deliveries 8c1f0a52d3b94e07 --limit 20
    """

    async def read(operator: Operator) -> list[Sent]:
        await _known(operator, hook)
        return await _service(operator).sent(hook, customer=None, limit=limit)

    found = operate(config, read)
    if json:
        _print([asdict(each) for each in found])
        return
    columns = (
        Column(name="event"),
        Column(name="type"),
        Column(name="at", drop=2),
        Column(name="state"),
        Column(name="attempts", numbers=True, drop=1),
        Column(name="next", drop=3),
        Column(name="error", free=True),
    )
    screen.show(screen.console(), columns, [_delivery(each) for each in found])


@app.command()
def rotate(hook: Hook, config: Config = DEFAULT, json: Json = False) -> None:
    """Make a new secret, printed once. For 24 hours requests are signed with the one before as well.

    Example: fieldgate webhooks rotate 8c1f0a52d3b94e07
    """
    secret = _ask(config, hook, lambda service: service.rotate_secret(hook, customer=None))
    if json:
        _print({"webhook": hook, "secret": secret})
    else:
        print(secret)


@app.command()
def enable(hook: Hook, config: Config = DEFAULT, json: Json = False) -> None:
    """Deliver again, from where it stopped.

    Example: fieldgate webhooks enable 8c1f0a52d3b94e07
    """
    _ask(config, hook, lambda service: service.enable(hook, customer=None))
    _done(hook, "enabled", json=json)


@app.command()
def disable(hook: Hook, config: Config = DEFAULT, json: Json = False) -> None:
    """Deliver nothing until it is enabled; what comes meanwhile is kept.

    Example: fieldgate webhooks disable 8c1f0a52d3b94e07
    """
    _ask(config, hook, lambda service: service.disable(hook, customer=None))
    _done(hook, "disabled", json=json)


@app.command()
def delete(hook: Hook, config: Config = DEFAULT, yes: Yes = False, json: Json = False) -> None:
    """Remove it with everything that waits for it. This cannot be undone.

    Example: fieldgate webhooks delete 8c1f0a52d3b94e07 --yes
    """

    async def run(operator: Operator) -> None:
        await _known(operator, hook)
        screen.agree(f"Remove webhook {hook}? This cannot be undone.", yes=yes)
        await _service(operator).delete(hook, customer=None)

    operate(config, run)
    _done(hook, "removed", json=json)


def _service(operator: Operator) -> WebhookService:
    return WebhookService(
        operator.settings.webhooks, operator.database, EndpointSealer(operator.engine.vault)
    )


async def _known(operator: Operator, hook: str) -> None:
    """Raises RequestRefused with what is near."""
    known = [each.id for each in await _service(operator).endpoints(customer=None)]
    if hook not in known:
        near = near_misses(hook, known) or "; `fieldgate webhooks list` shows all"
        raise RequestRefused("request.not_found", f"there is no webhook {hook!r}{near}")


def _ask(config: Config, hook: str, ask: Callable[[WebhookService], Awaitable[T]]) -> T:
    async def run(operator: Operator) -> T:
        await _known(operator, hook)
        return await ask(_service(operator))

    return operate(config, run)


def _with_progress(config: Config, what: str, run: Callable[[Operator], Awaitable[T]]) -> T:
    with screen.working(what):
        return operate(config, run)


async def _one(operator: Operator, hook: str, event_id: str) -> Sent | None:
    try:
        UUID(event_id)
    except ValueError:
        return None  # the service says so
    found = await _service(operator).sent(hook, customer=None, event_id=event_id, limit=1)
    return found[0] if found else None


async def _awaited(operator: Operator, hook: str, event_id: str, *, attempts: int = 0) -> Sent | None:
    """The outcome of the next attempt; None where nobody made one in time."""
    deadline = clock.monotonic() + ANSWER_SECONDS
    while clock.monotonic() < deadline:
        now = await _one(operator, hook, event_id)
        if now is not None and now.attempt > attempts and (now.state != "pending" or now.next_at is not None):
            return now
        await asyncio.sleep(POLL_SECONDS)
    return None


def _tell(hook: str, sent: Sent | None, *, json: bool) -> None:
    if json:
        _print({"webhook": hook, "delivery": None if sent is None else asdict(sent)})
    elif sent is None:
        text = "nobody sent it yet: is a gateway running? It is sent when one does"
        screen.console().print(Text.assemble((hook, "bold"), ": ", (text, "yellow")))
    elif sent.state == "delivered":
        screen.console().print(
            Text.assemble((hook, "bold"), ": ", ("taken", "green"), f", event {sent.event_id}")
        )
    else:
        said = f"; tried again {screen.moment(sent.next_at)}" if sent.next_at is not None else ""
        screen.console().print(
            Text.assemble((hook, "bold"), ": ", (sent.error or "refused", "bold red"), said), soft_wrap=True
        )
    if sent is None or sent.state != "delivered":
        raise typer.Exit(1)


def _done(hook: str, what: str, *, json: bool) -> None:
    if json:
        _print({"webhook": hook, "state": what})
    else:
        screen.console().print(Text.assemble((hook, "bold"), f" is {what}"))


def _row(each: Endpoint) -> Sequence[Text | str]:
    if each.disabled_at is not None:
        state = Text(f"disabled ({each.disabled_reason})", style="bold red")
    elif each.failing_since is not None:
        state = Text(f"fails for {screen.span(clock.now() - each.failing_since)}", style="yellow")
    else:
        state = Text("OK", style="green")
    return (each.id, each.customer or "every customer", state, str(each.pending), each.url)


def _delivery(each: Sent) -> Sequence[Text | str]:
    styles = {"delivered": "green", "pending": "yellow", "given_up": "bold red"}
    return (
        each.event_id,
        each.type,
        screen.moment(each.at),
        Text(each.state, style=styles[each.state]),
        str(each.attempt),
        screen.moment(each.next_at),
        each.error or "",
    )


def _print(document: object) -> None:
    print(orjson.dumps(document, option=orjson.OPT_UTC_Z).decode())
