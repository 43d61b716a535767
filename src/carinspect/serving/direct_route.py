"""Owns the short way to an endpoint that reads its request itself."""

from starlette.routing import Match, Route
from starlette.types import Scope


class DirectRoute(Route):
    """A route past FastAPI's handling of a request, which costs as much as some layers of a small model."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette's own; like a route of FastAPI it makes itself known, for the figures by route."""
        match, found = super().matches(scope)
        return match, {**found, "route": self}
