"""The two pages for people, and the policies that let them load nothing from elsewhere.

The page at / is one file with everything inside. The one at /docs is Swagger UI, whose files stand below it.
"""

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html

_PATH = "/docs"
_SCRIPT, _STYLE, _ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
_MEDIA_TYPES = {_SCRIPT: "text/javascript", _STYLE: "text/css", _ICON: "image/png"}


def read_page() -> tuple[bytes, str]:
    """The page, and its Content-Security-Policy: the scripts and styles that stand in it, by their hashes, and this service."""
    text = resources.files("carinspect.serving").joinpath("page.html").read_text(encoding="utf-8")
    return text.encode(), _policy(scripts=_hashes(text, "script"), styles=_hashes(text, "style"), images="'self' blob: data:")


def add_interface(app: FastAPI, *, with_token: bool) -> None:
    """Add the page and its files, open to all as /openapi.json is. To be called once all other routes are there.

    with_token: the service asks for a token, so the description says where, and the page takes one.
    """
    files = resources.files("fastapi_swagger.resources")
    _add(app, _PATH, _page(app))
    for name, media_type in _MEDIA_TYPES.items():
        _add(app, f"{_PATH}/{name}", Response(files.joinpath(name).read_bytes(), media_type=media_type))
    if with_token:
        _declare_token(app)


def _add(app: FastAPI, path: str, answer: Response) -> None:
    # One answer for everybody: however many read it slowly, it is in memory once and holds no open file.
    async def known() -> Response:
        return answer

    app.add_api_route(path, known, include_in_schema=False)


def _page(app: FastAPI) -> Response:
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title=f"{app.title}: the interface",
        swagger_js_url=f"{_PATH}/{_SCRIPT}",
        swagger_css_url=f"{_PATH}/{_STYLE}",
        swagger_favicon_url=f"{_PATH}/{_ICON}",
        # None: the description is sent to nobody's validator.
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["Content-Security-Policy"] = _policy(
        scripts=f"'self' {_hashes(bytes(page.body).decode(), 'script')}",
        # Swagger UI sets styles of its own as it runs; they have no hashes.
        styles="'self' 'unsafe-inline'",
        images="'self' data:",
    )
    return page


def _declare_token(app: FastAPI) -> None:
    # FastAPI makes the description once and keeps it. What can answer 401 is what asks for the token.
    schema = app.openapi()
    schema["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "CARINSPECT_API_TOKEN of the service"}
    }
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    for operation in operations:
        if "401" in operation["responses"]:
            operation["security"] = [{"token": []}]


def _policy(*, scripts: str, styles: str, images: str) -> str:
    """A page's Content-Security-Policy: these sources, questions to this service, and nothing else."""
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src {images}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(text: str, tag: str) -> str:
    """The sources of a policy that allow what stands inside each plain `<tag>` of `text`, and nothing else."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" for content in found)
