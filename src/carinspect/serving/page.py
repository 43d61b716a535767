"""Owns the page for people: one file with everything inside, and the policy that lets it load nothing else."""

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources


def read_page() -> tuple[bytes, str]:
    """The page, and its Content-Security-Policy: the scripts and styles that stand in it, by their hashes, and this service."""
    text = resources.files("carinspect.serving").joinpath("page.html").read_text(encoding="utf-8")
    return text.encode(), policy(scripts=hashes(text, "script"), styles=hashes(text, "style"), images="'self' blob: data:")


def policy(*, scripts: str, styles: str, images: str) -> str:
    """A page's Content-Security-Policy: these sources, questions to this service, and nothing else."""
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src {images}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def hashes(text: str, tag: str) -> str:
    """The sources of a policy that allow what stands inside each plain `<tag>` of `text`, and nothing else."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" for content in found)
