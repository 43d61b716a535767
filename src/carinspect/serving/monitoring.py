"""The service's figures for Prometheus, over all of its worker processes."""

import os
from collections.abc import Iterable
from functools import cache
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from carinspect.audit.martingale import State
from carinspect.audit.state import Audited
from carinspect.inference.predictor import BinaryAnswer
from carinspect.serving.engine import Seen

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client finds the files that several processes share. `carinspect serve` sets it."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Monitor:
    """The figures of one process; `text` tells those of all."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        requests = Counter("carinspect_requests", "Requests by route and status.", ["route", "status"], registry=registry)
        request_seconds = Histogram(
            "carinspect_request_seconds", "From a request's headers to its answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        decisions = Counter("carinspect_decisions", "Answered photos by decision.", ["question", "decision"], registry=registry)
        self._decode_seconds = Histogram("carinspect_decode_seconds", "Decoding a photo.", buckets=_SECONDS, registry=registry)
        self._model_seconds = Histogram("carinspect_model_seconds", "The model's run for a photo.", buckets=_SECONDS, registry=registry)
        self.reloads = Counter("carinspect_model_reloads", "Replacements of the model by outcome.", ["outcome"], registry=registry)
        self.drift_log_failures = Counter("carinspect_drift_log_failures", "Lines of the drift log not written at once.", registry=registry)
        self.waiting = Gauge("carinspect_photos_waiting", "Photos not yet answered.", multiprocess_mode="livesum", registry=registry)
        self._audited: set[tuple[str, str]] = set()
        self._audit = Gauge(
            "carinspect_audit_state", "1 for the state of a promise by the verdicts of people.", ["question", "word", "state"],
            multiprocess_mode="mostrecent", registry=registry,
        )  # fmt: skip
        self._verdicts = Gauge(
            "carinspect_audit_verdicts", "Counted verdicts of people.", ["question", "word"],
            multiprocess_mode="mostrecent", registry=registry,
        )  # fmt: skip
        self.audit_unreadable = Gauge(
            "carinspect_audit_ledger_unreadable", "1 while the ledger cannot be read.", multiprocess_mode="mostrecent", registry=registry
        )
        self._model = Gauge("carinspect_model_info", "1 for the model served.", ["version"], multiprocess_mode="livemax", registry=registry)
        self._version: str | None = None
        # To look a figure up by its labels takes longer than to count.
        self._requests_of = cache(requests.labels)
        self._request_seconds_of = cache(request_seconds.labels)
        self._decisions_of = cache(decisions.labels)

    def note_model(self, version: str) -> None:
        """Say that `version`, and no other, is now served."""
        if self._version is not None:
            self._model.labels(self._version).set(0)
        self._version = version
        self._model.labels(version).set(1)

    def note_audit(self, findings: Iterable[Audited]) -> None:
        """Say what the ledger's verdicts mean for each promise of the model served, and of no other."""
        found = {(one.question, one.word): one.finding for one in findings}
        self._audited |= set(found)
        # A label that was shown once stays in the files of several processes.
        for words in self._audited:
            finding = found.get(words)
            for state in get_args(State):
                self._audit.labels(*words, state).set(finding is not None and state == finding.state)
            self._verdicts.labels(*words).set(finding.verdicts if finding else 0)

    def note_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request and what it took."""
        self._requests_of(route, str(status)).inc()
        self._request_seconds_of(route).observe(seconds)

    def note_answer(self, seen: Seen) -> None:
        """Count a photo's answer and what it took."""
        for name in seen.model.predictor.rules:
            one = seen.answer[name]
            assert isinstance(one, BinaryAnswer)
            self._decisions_of(name, one.decision).inc()
        self._decode_seconds.observe(seen.decode_s)
        self._model_seconds.observe(seen.model_s)

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)
        return generate_latest(together)
