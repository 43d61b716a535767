"""How fast and how rightly `carinspect audit state` finds a broken promise, and proves one anew: streams of simulated verdicts.

    python benchmarks/audit.py [--streams 1000]

For a target precision of .95 at the level .05. Prints, for each true share of wrong words, the share of streams that were ever called
broken or proved anew, and the median number of verdicts until then. No stream needs the model or a photo.

The rows `1.0% ratio` to `3.0% ratio` show how far another bet could go: the plain likelihood ratio of that share against 5 %, Wald's (1947)
sequential test, which is the fastest on average where exactly that share is wrong.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from carinspect.audit.martingale import log_e_broken, log_e_proved

TARGET, LEVEL = 0.95, 0.05


def first_alarms(log_e: Callable[..., float], wrong_share: float, *, streams: int, verdicts: int, seed: int) -> np.ndarray:
    """Number of the verdict at which each stream first reaches 1 / level; infinity where it never does."""

    @cache
    def reached(number: int, wrong: int) -> bool:
        return log_e(number, wrong, target=TARGET) >= -np.log(LEVEL)

    found = np.full(streams, np.inf)
    wrongs = (np.random.default_rng(seed).random((streams, verdicts)) < wrong_share).cumsum(axis=1)
    for stream in range(streams):
        found[stream] = next((number for number, wrong in enumerate(wrongs[stream].tolist(), start=1) if reached(number, wrong)), np.inf)
    return found


def log_ratio(verdicts: int, wrong: int, *, target: float, share: float) -> float:
    """Logarithm of the likelihood ratio of `share` wrong against 1 - target."""
    return float(wrong * np.log(share / (1 - target)) + (verdicts - wrong) * np.log((1 - share) / target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    streams = parser.parse_args().streams
    print("finding        wrong   ever  median verdicts  within 150")
    cases: list[tuple[str, Callable[..., float], tuple[float, ...]]] = [
        ("broken", log_e_broken, (0.05, 0.075, 0.10, 0.15)),
        ("proved anew", log_e_proved, (0.05, 0.02, 0.01)),
        *((f"{share:.1%} ratio", partial(log_ratio, share=share), (0.05, 0.02, 0.01)) for share in (0.01, 0.015, 0.02, 0.03)),
    ]
    for name, log_e, shares in cases:
        for share in shares:
            alarms = first_alarms(log_e, share, streams=streams, verdicts=2000, seed=2026)
            ever, early = np.isfinite(alarms).mean(), (alarms <= 150).mean()
            print(f"{name:12} {share:7.3f} {ever:6.3f} {np.median(alarms):16.0f} {early:11.3f}", flush=True)


if __name__ == "__main__":
    main()
