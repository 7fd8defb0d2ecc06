"""``mezzotint jobs``: what a service is at, and what it is told."""

from __future__ import annotations

import json as json_module
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.app import Json, app, exit_codes
from engine.cli.screen import say

if TYPE_CHECKING:
    from engine.client import SyncClient

jobs_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The jobs of a service.")
app.add_typer(jobs_app, name="jobs")

Server = Annotated[
    str, typer.Option("--server", metavar="URL", envvar="MEZZOTINT_SERVER", help="Where the service answers.")
]
Id = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]
_SERVER = "http://127.0.0.1:8188"


@contextmanager
def connected(server: str) -> Iterator[SyncClient]:
    """A client of the service; the token comes from ``MEZZOTINT_TOKEN``."""
    from engine.client import SyncClient

    with exit_codes(), SyncClient(server, token=os.environ.get("MEZZOTINT_TOKEN"), first_patience=3) as client:
        yield client


@jobs_app.command("list")
def list_jobs(
    server: Server = _SERVER,
    state: Annotated[
        list[str], typer.Option("--state", help="queued, running, paused, succeeded, failed, cancelled.")
    ] = [],  # noqa: B006
    label: Annotated[list[str], typer.Option("--label", metavar="NAME=VALUE")] = [],  # noqa: B006
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    json: Json = False,
) -> None:
    """The newest jobs."""
    labels = dict(text.partition("=")[::2] for text in label)
    with connected(server) as client:
        found = client.list(states=state, labels=labels, limit=limit)
    if json:
        say(json_module.dumps(found, indent=2), to=sys.stdout)
        return
    for job in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["created"]))
        say(f"{job['id']}  {job['state']:<9}  {when}  {_spent(job)}", to=sys.stdout)


def _spent(job: dict[str, Any]) -> str:
    if job["started"] is None:
        return ""
    return f"{(job['finished'] or time.time()) - job['started']:.1f} s"


@jobs_app.command("show")
def show_job(job: Id, server: Server = _SERVER) -> None:
    """A job as it stands, as JSON."""
    with connected(server) as client:
        say(json_module.dumps({**client.get(job), "files": client.outputs(job)}, indent=2), to=sys.stdout)


@jobs_app.command("cancel")
def cancel_job(job: Id, server: Server = _SERVER) -> None:
    """End a job: at once if it waits, at its next step if it runs."""
    with connected(server) as client:
        _tell(client.cancel(job), job, "is being cancelled", "had ended, or there is none")


@jobs_app.command("pause")
def pause_job(job: Id, server: Server = _SERVER) -> None:
    """Hold a job; one that runs stops at its next step."""
    with connected(server) as client:
        _tell(client.pause(job), job, "is being paused", "neither waits nor runs")


@jobs_app.command("resume")
def resume_job(job: Id, server: Server = _SERVER) -> None:
    """Let a paused job go on."""
    with connected(server) as client:
        _tell(client.resume(job), job, "waits again", "is not paused")


def _tell(is_done: bool, job: str, done: str, not_done: str) -> None:
    say(f"job {job} {done if is_done else not_done}")
    if not is_done:
        raise typer.Exit(1)


@jobs_app.command("watch")
def watch_job(
    job: Annotated[str | None, typer.Argument(help="The job's id; all jobs if left out.", show_default=False)] = None,
    server: Server = _SERVER,
    after: Annotated[int | None, typer.Option("--after", metavar="N", help="Only what came after this number.")] = None,
) -> None:
    """Print what happens, a line of JSON each: of one job from its beginning to its end, of all from now on."""
    from engine.jobs.records import Gap, StoredEvent

    with connected(server) as client:
        for event in client.events(job, after=after if after is not None else (0 if job else None)):
            if isinstance(event, StoredEvent):
                line = {"seq": event.seq, "job": event.job, "time": event.time, "name": event.name, "data": event.data}
                say(json_module.dumps(line, default=str), to=sys.stdout)
            elif isinstance(event, Gap):
                say(f"between {event.after} and {event.until} events are missing: their jobs were deleted")
