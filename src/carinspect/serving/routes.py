"""The routes of the service: what each takes, who may ask, and the form of its answers."""

import asyncio
import hmac
import os
import signal
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from carinspect.core.errors import UserError
from carinspect.inference.predictor import Answer
from carinspect.serving.answers import BatchAnswer, BatchItem, PhotoAnswer, form_verdict
from carinspect.serving.config import SUPERVISOR
from carinspect.serving.heavy_photos import TOGETHER
from carinspect.serving.middleware import DirectRoute
from carinspect.serving.refusals import RefusalBody, RefusalError
from carinspect.serving.service import Service
from carinspect.serving.uploads import Reservation, read_form_photos, read_json_body

_PHOTO = {"type": "string", "format": "binary"}
_REASONS = {
    400: "The body is broken.",
    401: "The token is missing or wrong.",
    403: "Switched off here, or not allowed.",
    404: "There is no such photo.",
    408: "The body came too slowly.",
    409: "The answer was another model's.",
    413: "Too large.",
    415: "Not a photo, or not in the form asked for.",
    422: "The photo, or a value, cannot be used.",
    503: "Too much at once; Retry-After says when to try again.",
}
_TAKING = {400, 408, 413, 415, 422, 503}


def _refusals(statuses: set[int]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": RefusalBody, "description": _REASONS[status]} for status in sorted(statuses)}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _authorise(request: Request) -> None:
    token = _service(request).config.api_token
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Starlette reads headers as Latin-1, so this gives back the bytes that were sent, in UTF-8 as a rule; or else they were Latin-1.
    # Comparing takes as long for a token that is nearly right as for one that is not.
    expected = token.get_secret_value().encode()
    right = [hmac.compare_digest(given.strip().encode(code), expected) for code in ("latin-1", "utf-8")]
    if scheme.lower() != "bearer" or not any(right):
        raise RefusalError(401, "This asks for a token: send the header 'Authorization: Bearer …'.")


_ASKS, _MAY_REFUSE = [Depends(_authorise)], _refusals({401})

photo_routes = APIRouter(route_class=DirectRoute, dependencies=_ASKS, responses=_MAY_REFUSE)
"""They take photos. They ask for the token, and are answered past the layers of FastAPI."""
protected_routes = APIRouter(dependencies=_ASKS, responses=_MAY_REFUSE)
"""They ask for the token."""
open_routes = APIRouter()
"""They answer everybody, and tell nothing of photos, figures or where the model comes from."""


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "required": [field], "properties": {field: schema}, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def _switch(name: str, about: str) -> dict[str, Any]:
    parameter = {"name": name, "in": "query", "required": False, "description": about, "schema": {"type": "boolean", "default": False}}
    return {"parameters": [parameter]}


_FILES = _form("files", {"type": "array", "items": _PHOTO, "minItems": 1})
_MARKS = _switch("marks", "Add the marked places of the photo, where the model has maps.")
_CAR_AND_MARKS = {"parameters": _switch("car", "All photos show one car: add a verdict on it.")["parameters"] + _MARKS["parameters"]}


def _flag(request: Request, name: str) -> bool:
    if not request.scope["query_string"]:
        return False  # like most requests; to read a query takes time
    given = request.query_params.get(name, "false")
    if given not in ("true", "false"):
        raise RefusalError(422, f"{name} is neither true nor false.")
    return given == "true"


def _json(answer: dict[str, Any] | BatchAnswer) -> Response:
    return Response(to_json(answer, inf_nan_mode="null"), media_type="application/json")


@photo_routes.post(
    "/predict/file",
    response_model=PhotoAnswer,
    responses=_refusals({*_TAKING, 403}),
    openapi_extra=_MARKS | _form("file", _PHOTO),
    tags=["answers"],
)
async def predict_file(request: Request) -> Response:
    """One photo's answers."""
    service = _service(request)
    marked = _flag(request, "marks")
    if marked:
        service.engine.require_maps()
    with service.upload() as reservation:
        (photo,) = await read_form_photos(request, field_name="file", max_files=1, config=service.config, reservation=reservation)
        with service.admission(1):
            return _json((await service.answer(photo, marked=marked))[1])


class PhotoUrl(BaseModel):
    """Where a photo lies."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str


@photo_routes.post(
    "/predict/url",
    response_model=PhotoAnswer,
    responses=_refusals({*_TAKING, 403}),
    openapi_extra=_MARKS | {"requestBody": {"required": True, "content": {"application/json": {"schema": PhotoUrl.model_json_schema()}}}},
    tags=["answers"],
)
async def predict_url(request: Request) -> Response:
    """The answers for a photo on the public internet. Off unless the operator allows it."""
    service = _service(request)
    marked = _flag(request, "marks")
    if marked:
        service.engine.require_maps()
    with service.upload() as reservation:
        body = await read_json_body(request, config=service.config, reservation=reservation)
        try:
            url = PhotoUrl.model_validate_json(body).url
        except ValidationError:
            raise RefusalError(422, 'Send {"url": "https://…"} and nothing else.') from None
        photo = await service.fetcher.fetch(url, reservation)
        with service.admission(1):
            return _json((await service.answer(photo, marked=marked))[1])


@photo_routes.post(
    "/predict/batch",
    response_model=BatchAnswer,
    responses=_refusals({*_TAKING, 403}),
    openapi_extra=_CAR_AND_MARKS | _FILES,
    tags=["answers"],
)
async def predict_batch(request: Request) -> Response:
    """Several photos' answers, each with an answer or an error of its own."""
    service = _service(request)
    car, marked = _flag(request, "car"), _flag(request, "marks")
    if marked:
        service.engine.require_maps()
    with service.upload() as reservation:
        photos = await _read_several(request, service, reservation)
        with service.admission(len(photos)):
            await _refuse_too_costly(service, photos)
            found = await asyncio.gather(*(_batch_item(service, photo, marked=marked) for photo in photos))
    model = service.engine.model
    verdict = form_verdict([answer for answer, _ in found], model.car_rules) if car else None
    return _json(BatchAnswer(photos=[item for _, item in found], car=verdict, model_version=model.version))


async def _read_several(request: Request, service: Service, reservation: Reservation) -> list[bytes]:
    most = service.config.max_batch_files
    return await read_form_photos(request, field_name="files", max_files=most, config=service.config, reservation=reservation)


async def _refuse_too_costly(service: Service, photos: list[bytes]) -> None:
    if await service.engine.count_heavy(photos) > TOGETHER:
        raise RefusalError(413, f"More than {TOGETHER} photos of this request are costly to decode. Send them one by one.")


async def _batch_item(service: Service, photo: bytes, *, marked: bool) -> tuple[Answer | None, BatchItem]:
    try:
        answer, form = await service.answer(photo, marked=marked)
    except RefusalError as refusal:
        return None, BatchItem(answer=None, error=refusal.reason, status=refusal.status)
    return answer, BatchItem(answer=form, error=None, status=200)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a remark."""

    photo_sha256: str
    question: str
    word: Annotated[str, Field(description="What the model says of the photo.")]
    verdict: str


_REMARK = {
    "parameters": [
        {"name": name, "in": "query", "required": True, "description": about, "schema": {"type": "string"}}
        for name, about in (
            ("question", "The question that the remark is about."),
            ("verdict", "The class that is right."),
            ("model_version", "As the answer has it."),
        )
    ]
}


def _remark_in(request: Request) -> dict[str, str]:
    return {name: request.query_params.get(name, "") for name in ("question", "verdict", "model_version")}


@photo_routes.post(
    "/feedback",
    response_model=Kept,
    responses=_refusals({*_TAKING, 403, 409}),
    openapi_extra=_REMARK | _form("file", _PHOTO),
    tags=["feedback"],
)
async def feedback(request: Request) -> Response:
    """Keep a photo and what a person says of its answer. Off unless the operator names a folder."""
    service = _service(request)
    service.require_inbox()
    with service.upload() as reservation:
        (photo,) = await read_form_photos(request, field_name="file", max_files=1, config=service.config, reservation=reservation)
        with service.admission(1):
            (remark,) = await service.remark([photo], **_remark_in(request))
    return Response(to_json(Kept(remark.photo_sha256, remark.question, remark.word, remark.verdict)), media_type="application/json")


@dataclass(frozen=True, slots=True)
class KeptOfCar:
    """What was kept of a remark on a car."""

    photo_sha256s: list[str]
    question: str
    word: Annotated[str, Field(description="What the model says of the car.")]
    verdict: str


@photo_routes.post(
    "/feedback/car",
    response_model=KeptOfCar,
    responses=_refusals({*_TAKING, 403, 409}),
    openapi_extra=_REMARK | _FILES,
    tags=["feedback"],
)
async def feedback_on_car(request: Request) -> Response:
    """Keep all photos of a car and what a person says of its verdict. Off unless the operator names a folder."""
    service = _service(request)
    service.require_inbox()
    with service.upload() as reservation:
        photos = await _read_several(request, service, reservation)
        with service.admission(len(photos)):
            await _refuse_too_costly(service, photos)
            remarks = await service.remark(photos, **_remark_in(request))
    kept = KeptOfCar([remark.photo_sha256 for remark in remarks], remarks[0].question, remarks[0].word, remarks[0].verdict)
    return Response(to_json(kept), media_type="application/json")


@protected_routes.get("/feedback", responses=_refusals({403}), tags=["feedback"])
async def what_may_be_said(request: Request) -> dict[str, list[str]]:
    """The classes of each question that a remark may be about."""
    service = _service(request)
    service.require_inbox()
    return {asked.name: list(asked.classes) for asked in service.engine.model.predictor.questions if asked.has_classes}


@protected_routes.delete("/feedback/{photo_sha256}", responses=_refusals({403, 404}), tags=["feedback"])
async def forget(request: Request, photo_sha256: str) -> dict[str, str]:
    """Delete a photo and all remarks on it. Asks for the token, so it needs one."""
    service = _service(request)
    inbox = service.require_inbox()
    if service.config.api_token is None:
        raise RefusalError(403, "Switched off here, where there is no token to ask for (CARINSPECT_API_TOKEN). Delete the files instead.")
    if not await asyncio.to_thread(inbox.delete, photo_sha256):
        raise RefusalError(404, "There is no such photo.")
    return {"deleted": photo_sha256}


@protected_routes.get("/model", tags=["model"])
async def model(request: Request) -> dict[str, Any]:
    """What is served: its lineage, its figures on the test split, its rule and promise."""
    return _service(request).engine.model.describe()


class ReloadRefusal(RefusalBody):
    """Why a new model was not taken, and which one goes on."""

    model_version: str


@protected_routes.post("/admin/reload", responses={**_refusals({403}), 409: {"model": ReloadRefusal}}, tags=["model"])
async def reload(request: Request, response: Response) -> dict[str, Any]:
    """Replace the model by the file that now lies at MODEL_PATH; no request is dropped. Asks for the token, so it needs one."""
    service = _service(request)
    if service.config.api_token is None:
        raise RefusalError(403, "Switched off here, where there is no token to ask for (CARINSPECT_API_TOKEN). Send SIGHUP instead.")
    try:
        described = await service.reload(service.config.model_path)
    except UserError:
        response.status_code = 409
        reason = "The new model file is not fit to serve, and the service's log says why. The old one goes on."
        return {"error": reason, "model_version": service.engine.model.version}
    if SUPERVISOR in os.environ:
        os.kill(int(os.environ[SUPERVISOR]), signal.SIGHUP)
    return described


@open_routes.head("/healthz", include_in_schema=False)
@open_routes.get("/healthz", tags=["state"])
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@open_routes.head("/readyz", include_in_schema=False)
@open_routes.get("/readyz", responses=_refusals({503}), tags=["state"])
async def readyz(request: Request) -> dict[str, str | bool]:
    """A photo sent now would be taken."""
    service = _service(request)
    if service.engine.full:
        raise RefusalError(503, "Too many photos are waiting.")
    if service.engine.stuck:
        raise RefusalError(503, "Photos are waiting, and none is being answered.")
    model = service.engine.model
    return {"status": "ready", "model_version": model.version, "marks": model.marker is not None}


@protected_routes.get("/metrics", response_class=Response, tags=["state"])
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(await _service(request).figures(), media_type=CONTENT_TYPE_LATEST)


@open_routes.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page for people."""
    service = _service(request)
    return Response(service.page, media_type="text/html", headers={"Content-Security-Policy": service.page_policy})
