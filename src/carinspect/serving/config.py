"""Owns the service's settings: environment variables, read once, strictly, into one frozen object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator

from carinspect.core.errors import UserError
from carinspect.core.machine import usable_cores
from carinspect.core.params import Section
from carinspect.inference.session import Device

_WORDS = {"1": "true", "yes": "true", "on": "true", "0": "false", "no": "false", "off": "false"}


class ServiceConfig(Section):
    """Each field is the environment variable of the same name in capitals."""

    model_path: Path = Path("models/best.onnx")
    """The model file. It carries its own threshold."""
    device: Device = "cpu"
    """Where the model runs. `auto` takes a GPU where onnxruntime can use one."""
    imgsz: int | None = Field(None, ge=1)
    """Image side in pixels that the operator expects; the service does not start with a model of another. None: the model's own."""

    thresh: float | None = Field(None, ge=0, le=1)
    """In place of the model's T_clean. Any number but the model's own ends the promise, and every answer says so."""
    t_low: float | None = Field(None, ge=0, le=1)
    """In place of the model's T_low."""
    t_high: float | None = Field(None, ge=0, le=1)
    """In place of the model's T_high."""

    max_upload_mb: float = Field(15.0, gt=0, le=200)
    """Of one photo, in units of 1,000,000 bytes."""
    max_pixels: int = Field(60_000_000, ge=1, le=200_000_000)
    """Width times height of a photo, as its header says before anything is decoded."""
    max_aspect_ratio: float = Field(8.0, ge=1)
    """Longer side over shorter side. A strip squeezed into the model's square shows nothing that it was trained on."""
    min_side_px: int = Field(16, ge=1)
    """Shorter side of a photo."""
    max_batch_files: int = Field(16, ge=1, le=256)
    """Photos in one request to /predict/batch."""
    max_buffered_mb: float = Field(256.0, gt=0)
    """Bytes of all uploads that a worker holds at once; beyond it new ones are sent away with 503."""

    queue_limit: int = Field(64, ge=1)
    """Photos that a worker has accepted and not yet answered; beyond it new ones are sent away with 503."""
    workers: int = Field(1, ge=1, le=64)
    """Processes, each with a model of its own."""
    threads: int | None = Field(None, ge=1)
    """Photos that a worker decodes at once, and on a CPU answers at once. None: the usable cores over the workers."""
    batch_size: int | None = Field(None, ge=1, le=1024)
    """Photos of concurrent requests that are answered in one run of the model. None: 1 on a CPU, 32 on a GPU."""
    batch_wait_ms: float = Field(2.0, ge=0, le=1000)
    """How long the first photo of a batch waits for others."""

    connection_limit: int = Field(1000, ge=1)
    """Open connections of a worker; beyond it requests get 503."""
    header_timeout_s: float = Field(10.0, gt=0)
    """Until the headers of a request have come in whole."""
    upload_timeout_s: float = Field(30.0, gt=0)
    """Until the body of a request has come in whole."""
    keep_alive_s: int = Field(15, ge=1)
    """That an idle connection stays open."""
    shutdown_timeout_s: int = Field(30, ge=1)
    """That accepted requests have to finish after SIGTERM."""

    api_token: SecretStr | None = None
    """Asked for as `Authorization: Bearer …` wherever a photo, the model or a figure is concerned. None: the service is open."""
    allow_urls: bool = False
    """Whether /predict/url fetches photos."""
    allowed_url_hosts: str = ""
    """Hosts that it may fetch from, with commas between; empty: any public one.

    `photos.example.org` names one, `.example.org` all below it, `photos.example.org:8443` another port than 80 or 443.
    """
    url_timeout_s: float = Field(10.0, gt=0)
    """For one photo, redirects included."""
    explain_grid: int = Field(8, ge=0, le=16)
    """Cells along each side of the occlusion map that `?explain=true` asks for. 0 switches it off."""
    drift_log: Path | None = None
    """File that histograms of answers are appended to, for `carinspect drift`; no photo, name or address. None: nothing is logged."""
    drift_window_s: float = Field(3600.0, gt=0)
    """That one line of it speaks of."""

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


def read_config(environment: Mapping[str, str]) -> ServiceConfig:
    """The settings in `environment`; a variable that is empty counts as unset. Raises `UserError` that names each wrong one."""
    values: dict[str, Any] = {}
    for field, about in ServiceConfig.model_fields.items():
        text = environment.get(field.upper(), "").strip()
        if not text:
            continue
        if about.annotation is bool:
            values[field] = _WORDS.get(text.lower(), text.lower())
        else:
            values[field] = text
    try:
        return ServiceConfig.model_validate_strings(values)
    except ValidationError as error:
        raise UserError(" ".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Any) -> str:
    name = str(problem["loc"][0]).upper()
    if problem["type"] == "value_error":
        # The value may be a secret.
        return f"{name}: {problem['ctx']['error']}"
    return f"{name} has the value {problem['input']!r}. {problem['msg']}. Correct it, or unset it."
