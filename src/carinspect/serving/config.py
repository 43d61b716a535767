"""The settings of the service: environment variables, read once into one frozen object."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from carinspect.core.errors import UserError
from carinspect.core.machine import usable_cores
from carinspect.inference.gate import GateMode
from carinspect.inference.session import Device

PREFIX = "CARINSPECT_"
MODEL_COPY = "CARINSPECT_MODEL_COPY"
"""Variable by which the parent of several workers tells them where the proven copy of the model lies."""
SUPERVISOR = "CARINSPECT_SUPERVISOR"
"""Variable with the process id of that parent. It passes a reload on to all workers."""


class ServiceConfig(BaseSettings):
    """Each field is the environment variable `CARINSPECT_` and its name in capitals; one with an alias is also the variable of that name.

    What is given as an argument goes before the environment.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    model_path: Path = Field(default=Path("models/best.onnx"), validation_alias="MODEL_PATH")
    """The model file. It carries its own threshold."""
    device: Device = "cpu"
    """Where the model runs. `auto` takes a GPU where onnxruntime can use one."""
    imgsz: int | None = Field(default=None, ge=1, validation_alias="IMGSZ")
    """Image side in pixels that the operator expects; the service does not start with a model of another. None: the model's own."""

    thresh: float | None = Field(default=None, ge=0, le=1, validation_alias="THRESH")
    """In place of the model's T_clean. Any number but the model's own ends the promise, and every answer says so."""
    t_low: float | None = Field(default=None, ge=0, le=1, validation_alias="T_LOW")
    """In place of the model's T_low."""
    t_high: float | None = Field(default=None, ge=0, le=1, validation_alias="T_HIGH")
    """In place of the model's T_high."""
    gate: GateMode = "on"
    """`on`: a photo unlike those of the proof is unsure. `report`: it is decided, and the reason is given. `off`: the gate is not asked.

    Anything but `on` ends the promise, and every answer says so.
    """

    max_upload_mb: float = Field(default=15.0, gt=0, le=200)
    """Of one photo, in units of 1,000,000 bytes."""
    max_pixels: int = Field(default=60_000_000, ge=1, le=200_000_000)
    """Width times height of a photo, as its header says before anything is decoded."""
    max_aspect_ratio: float = Field(default=8.0, ge=1)
    """Longer side over shorter side. A strip squeezed into the model's square shows nothing that it was trained on."""
    min_side_px: int = Field(default=16, ge=1)
    """Shorter side of a photo."""
    max_batch_files: int = Field(default=16, ge=1, le=256)
    """Photos in one request to /predict/batch."""
    max_buffered_mb: float = Field(default=256.0, gt=0)
    """Bytes of all uploads that a worker holds at once; beyond it new ones are sent away with 503."""

    queue_limit: int = Field(default=64, ge=1)
    """Photos that a worker has accepted and not yet answered; beyond it new ones are sent away with 503."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes, each with a model of its own."""
    threads: int | None = Field(default=None, ge=1)
    """Photos that a worker decodes at once, and on a CPU answers at once. None: the usable cores over the workers."""
    batch_size: int | None = Field(default=None, ge=1, le=1024)
    """Photos of concurrent requests that are answered in one run of the model. None: 1 on a CPU, 32 on a GPU."""
    batch_wait_ms: float = Field(default=2.0, ge=0, le=1000)
    """How long the first photo of a batch waits for others."""

    connection_limit: int = Field(default=1000, ge=1)
    """Open connections of a worker; beyond it requests get 503."""
    client_limit: int = Field(default=250, ge=1)
    """Open connections that one client address has with a worker; beyond it they get 503. A reverse proxy is one address."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """Until the headers of a request have come in whole."""
    upload_timeout_s: float = Field(default=30.0, gt=0)
    """Until the body of a request has come in whole."""
    request_timeout_s: float = Field(default=120.0, gt=0)
    """From a request's headers to the last byte of its answer; then its connection is cut."""
    keep_alive_s: int = Field(default=15, ge=1)
    """That an idle connection stays open."""
    shutdown_timeout_s: int = Field(default=30, ge=1)
    """That accepted requests have to finish after SIGTERM."""

    api_token: SecretStr | None = None
    """Asked for as `Authorization: Bearer …` wherever a photo, the model or a figure is concerned. None: the service is open."""
    allow_urls: bool = False
    """Whether /predict/url fetches photos."""
    allowed_url_hosts: str = ""
    """Hosts that it may fetch from, with commas between; empty: any public one.

    `photos.example.org` names one, `.example.org` all below it, `photos.example.org:8443` another port than 80 or 443.
    """
    url_timeout_s: float = Field(default=10.0, gt=0)
    """For one photo, redirects included."""
    drift_log: Path | None = None
    """File that histograms of answers are appended to, for `carinspect drift`; no photo, name or address. None: nothing is logged."""
    drift_window_s: float = Field(default=3600.0, gt=0)
    """Seconds that one line of the log covers."""
    audit_ledger: Path | None = None
    """Ledger of `carinspect audit`, whose findings for the served model /metrics then shows. It may appear later. None: it shows none."""

    feedback_dir: Path | None = None
    """Folder that keeps what people say of answers, with the photos, for `carinspect review`. None: nobody is asked."""
    feedback_days: float = Field(default=90.0, gt=0)
    """After which a remark and its photo are deleted from there."""
    feedback_mb: float = Field(default=1000.0, gt=0)
    """That the folder may hold, in units of 1,000,000 bytes; beyond it remarks are refused with 503."""

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @field_validator("api_token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < 16:
            make = 'python -c "import secrets; print(secrets.token_urlsafe())"'
            raise ValueError(f"shorter than 16 characters, so it can be guessed. Make one: {make}")
        return token

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1_000_000)

    @property
    def url_hosts(self) -> tuple[str, ...]:
        """`allowed_url_hosts`, taken apart at its commas."""
        return tuple(host.strip().lower() for host in self.allowed_url_hosts.split(",") if host.strip())

    @property
    def compute_threads(self) -> int:
        return self.threads or max(1, usable_cores() // self.workers)


def read_config() -> ServiceConfig:
    """The settings of the environment; a variable that is empty counts as unset. Raises `UserError` that names each wrong one."""
    if problems := [*_wrong_names()]:
        raise UserError(" ".join(problems))
    try:
        return ServiceConfig()
    except ValidationError as error:
        raise UserError(" ".join(_explain(problem) for problem in error.errors())) from None


def _wrong_names() -> Iterator[str]:
    """What is wrong with the names of the variables that are set."""
    known = [field.upper() for field in ServiceConfig.model_fields]
    for name in sorted(os.environ):
        # What is like no setting may be another program's: Kubernetes makes such names. They are compared without the prefix, which makes
        # all of them alike.
        word = name.removeprefix(PREFIX)
        if word != name and word not in known and name not in (MODEL_COPY, SUPERVISOR):
            for nearest in get_close_matches(word, known, n=1, cutoff=0.7):
                yield f"{name}: no such setting. Did you mean '{PREFIX}{nearest}'?"
    for name in _short_names():
        short, long = os.environ.get(name, "").strip(), os.environ.get(PREFIX + name, "").strip()
        if short and long and short != long:
            yield f"{name} has the value {short!r}, and {PREFIX}{name} has {long!r}. Unset one of them."
    if os.environ.get("API_TOKEN") and f"{PREFIX}API_TOKEN" not in os.environ:
        # The name of older versions. If it were ignored, the service would be open to everybody.
        fix = "Set that one; set it to nothing to serve without a token."
        yield f"API_TOKEN is set, and the service reads {PREFIX}API_TOKEN. {fix}"


def _short_names() -> list[str]:
    return [about.validation_alias for about in ServiceConfig.model_fields.values() if isinstance(about.validation_alias, str)]


def _explain(problem: Any) -> str:
    name = str(problem["loc"][0]).upper()
    if name not in _short_names() or not os.environ.get(name):
        name = PREFIX + name
    if problem["type"] == "value_error":
        # The value may be a secret.
        return f"{name}: {problem['ctx']['error']}"
    return f"{name} has the value {problem['input']!r}. {problem['msg']}. Correct it, or unset it."
