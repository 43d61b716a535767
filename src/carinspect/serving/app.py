"""The application: the routes, what is around them, and its beginning and end.

`uvicorn --factory carinspect.serving.app:from_environment` runs it; `carinspect serve` adds the time limits that strangers call for.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from uvicorn.config import STARTUP_FAILURE

from carinspect.core.errors import UserError
from carinspect.core.programs import die_with_parent
from carinspect.serving.config import SUPERVISOR, ServiceConfig, read_config
from carinspect.serving.fetching import Fetcher
from carinspect.serving.middleware import DirectRoute, Surroundings
from carinspect.serving.monitoring import SHARED_FOLDER
from carinspect.serving.pages import add_interface
from carinspect.serving.refusals import RefusalError, answer_fault, answer_http_error, answer_refusal
from carinspect.serving.routes import open_routes, photo_routes, protected_routes
from carinspect.serving.service import Service

log = logging.getLogger("uvicorn.error")


def from_environment() -> Surroundings:
    """The application that the environment describes; a wrong setting or an unfit model ends the process with one line."""
    if SUPERVISOR in os.environ:
        # Workers that outlived their parent would keep the port.
        die_with_parent(int(os.environ[SUPERVISOR]))
    try:
        return create_app(read_config())
    except UserError as error:
        print(f"carinspect: {error}", file=sys.stderr)
        # The status by which uvicorn knows that beginning again would not help.
        sys.exit(STARTUP_FAILURE)


def create_app(config: ServiceConfig, *, fetcher: Fetcher | None = None) -> Surroundings:
    """The application. Raises `UserError` when its model is not fit to serve. fetcher: None takes one for the public internet."""
    service = Service(config, fetcher or Fetcher(config))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.engine.start()
        running: set[asyncio.Task[None]] = set()
        _reload_on_hangup(service, running)
        _announce(service)
        yield
        await asyncio.gather(*running)
        await service.engine.stop()
        service.close()
        if SUPERVISOR in os.environ and os.getppid() != int(os.environ[SUPERVISOR]):
            # The parent was killed, so that nobody else deletes its folder.
            shutil.rmtree(os.environ[SHARED_FOLDER], ignore_errors=True)

    # FastAPI's own pages load their scripts from elsewhere; add_interface has one that doesn't.
    app = FastAPI(title="carinspect", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    for router in (photo_routes, protected_routes, open_routes):
        app.include_router(router)
    add_interface(app, with_token=config.api_token is not None)
    app.add_exception_handler(RefusalError, answer_refusal)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, answer_fault)
    direct = [route for route in photo_routes.routes if isinstance(route, DirectRoute)]
    return Surroundings(app, service.monitor, direct, memory=service.memory)


def _reload_on_hangup(service: Service, running: set[asyncio.Task[None]]) -> None:
    async def reload() -> None:
        # The reason is in the log, and the old model goes on.
        with suppress(UserError):
            await service.reload(service.model_file)

    def begin() -> None:
        task = asyncio.get_running_loop().create_task(reload())
        running.add(task)
        task.add_done_callback(running.discard)

    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin)
    except (RuntimeError, ValueError):
        log.info("Not in the main thread: SIGHUP does not reload the model.")


def _announce(service: Service) -> None:
    config, model = service.config, service.engine.model
    log.info("Serving model %s on %s, %d photos at once", model.version, model.predictor.bundle.provider, config.compute_threads)
    rules = model.predictor.rules.values()
    if any(rule.overridden for rule in rules):
        log.warning("THRESH, T_LOW, T_HIGH or GATE replace what the model decides by: no promise holds, and every answer says so.")
    elif not any(rule.promises for rule in rules):
        log.warning("The model carries no promise: no threshold could be proved when it was made.")
    if config.api_token is None:
        log.warning("No CARINSPECT_API_TOKEN: anyone who reaches this port can use the service.")
