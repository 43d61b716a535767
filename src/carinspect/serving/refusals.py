"""The refusal of a request: its status, its one-line reason, and the answer that carries it."""

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

RETRY_AFTER_S = 1


class RefusalBody(BaseModel):
    """What every answer but a good one holds."""

    error: str
    """What was wrong and what would be right, in one line."""


class RefusalError(Exception):
    """A request that gets `status` and a reason. The reason is read by strangers: no path, address or trace stands in it."""

    def __init__(self, status: int, reason: str, *, close: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.close = close
        """Whether the connection ends with the answer, because the rest of the request is not worth reading."""


def busy(what: str) -> RefusalError:
    """The refusal of one request too many; what: that there is too much of."""
    return RefusalError(503, f"{what}. Try again in {RETRY_AFTER_S} s.")


async def answer_refusal(_: Request, error: Exception) -> JSONResponse:
    """The answer to a request that was refused."""
    assert isinstance(error, RefusalError)
    headers = {"Connection": "close"} if error.close else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse({"error": error.reason}, error.status, headers)


async def answer_http_error(_: Request, error: Exception) -> JSONResponse:
    """The answer to a wrong path or method, in the same form."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"{error.detail}. GET /openapi.json lists what there is."}, error.status_code, error.headers)


async def answer_fault(_: Request, __: Exception) -> JSONResponse:
    """The answer when the service itself failed; the trace goes to the log, never to the client."""
    return JSONResponse({"error": "The service failed on this request, and its log says why."}, 500)
