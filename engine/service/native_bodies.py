"""What ``/v1`` takes and answers, as its description shows it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from engine.jobs.records import JobState

Text = Annotated[str, Field(max_length=256)]


class WorkflowBody(BaseModel):
    """A workflow to look at."""

    model_config = ConfigDict(extra="forbid")
    workflow: dict[str, Any]
    """API JSON or an editor's JSON."""
    targets: list[Text] | None = None
    """The nodes that are wanted; by default those that save or show something."""


class NewJob(WorkflowBody):
    """A job to run."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None
    client: Text = ""
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Higher goes first, and interrupts what is lower."""
    front: bool = False
    labels: Annotated[dict[Text, Text], Field(max_length=32)] = {}
    use_cache: bool = True
    stop_on_failure: bool = False


class JobError(BaseModel):
    node: str | None
    shown: str | None
    class_type: str | None
    pack: str | None
    input: str | None
    reason: str


class JobBody(BaseModel):
    """A job as it stands. Times are seconds since 1970."""

    id: str
    state: JobState
    client: str
    priority: int
    number: float
    labels: dict[str, str]
    created: float
    started: float | None
    finished: float | None
    attempts: int
    outputs: dict[str, dict[str, Any]]
    errors: list[JobError]
    last_event: int


class JobPage(BaseModel):
    jobs: list[JobBody]
    total: int
    limit: int
    offset: int


class Problems(BaseModel):
    problems: list[dict[str, Any]]


class Told(BaseModel):
    """Why not."""

    detail: str
