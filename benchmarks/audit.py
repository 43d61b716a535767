"""How fast and how rightly `carinspect audit state` finds a broken promise, and proves one anew: streams of simulated verdicts.

    python benchmarks/audit.py [--streams 1000]

For a target precision of .95 at the level .05. Prints, for each true share of wrong words, the share of streams that were ever called
broken or proved anew, and the median number of verdicts until then. No stream needs the model or a photo.

The rows `1.0% ratio` to `3.0% ratio` show how far another bet could go: the plain likelihood ratio of that share against 5 %, Wald's (1947)
sequential test, which is the fastest on average where exactly that share is wrong.

Then the same for draws with `--strata` from three strata, whose words are wrong alike, mostly in the rarest stratum, or nowhere in it; and
how often a promise that just holds is called broken, or a broken one proved, by a test that drops the weights.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from carinspect.audit.martingale import Tally, better_than, log_e_broken, log_e_proved, log_factor, tally_of, worse_than
from carinspect.audit.sheet import chances_of

TARGET, LEVEL = 0.95, 0.05
SIZES = {"common": 7000, "some": 2500, "rare": 500}
WRONG_SHARES = {"alike": (0.05, 0.05, 0.05), "mostly rare": (0.02, 0.06, 0.42), "never rare": (0.055, 0.046, 0.0)}
"""Of each stratum; .05 of all."""


def first_alarms(log_e: Callable[..., float], wrong_share: float, *, streams: int, verdicts: int, seed: int) -> np.ndarray:
    """Number of the verdict at which each stream first reaches 1 / level; infinity where it never does."""

    @cache
    def reached(number: int, wrong: int) -> bool:
        return log_e(tally_of(number, wrong), target=TARGET) >= -np.log(LEVEL)

    found = np.full(streams, np.inf)
    wrongs = (np.random.default_rng(seed).random((streams, verdicts)) < wrong_share).cumsum(axis=1)
    for stream in range(streams):
        found[stream] = next((number for number, wrong in enumerate(wrongs[stream].tolist(), start=1) if reached(number, wrong)), np.inf)
    return found


def log_ratio(tally: Tally, *, target: float, share: float) -> float:
    """Logarithm of the likelihood ratio of `share` wrong against 1 - target."""
    return float(
        sum(number * log_factor(np.array(share), 1 - target, wrong=wrong, stake=stake) for (wrong, stake), number in tally.items())
    )


def first_alarms_by_strata(
    bets: tuple[np.ndarray, np.ndarray], wrong_shares: np.ndarray, *, weighted: bool, streams: int, verdicts: int, seed: int
) -> np.ndarray:
    """As `first_alarms`, for stratified draws; all streams at once, since no count of words says what their weights were."""
    random, (alternatives, log_chances) = np.random.default_rng(seed), bets
    sizes, chances = np.array(list(SIZES.values())), np.array(list(chances_of(SIZES).values()))
    weights = sizes / sizes.sum() / chances if weighted else np.ones(len(sizes))
    factors = np.exp([
        [log_factor(alternatives, 1 - TARGET, wrong=wrong, stake=stake) for wrong in (False, True)] for stake in weights / weights.max()
    ])  # fmt: skip
    found, running = np.full(streams, np.inf), np.arange(streams)
    won = np.tile(np.exp(log_chances), (streams, 1))
    for number in range(1, verdicts + 1):
        stratum = random.choice(len(sizes), size=streams, p=chances)
        wrong = random.random(streams) < wrong_shares[stratum]
        won *= factors[stratum[running], wrong[running].astype(int)]
        alarmed = won.sum(axis=1) >= 1 / LEVEL
        found[running[alarmed]] = number
        if alarmed.any():
            won, running = won[~alarmed], running[~alarmed]
    return found


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

    print("\nfinding      wrong words   wrong   ever  median verdicts  ever without weights")
    for name, bets, shares in (("broken", worse_than(TARGET), (0.05, 0.10)), ("proved anew", better_than(TARGET), (0.05, 0.02))):
        for where, at_5_percent in WRONG_SHARES.items():
            for share in shares:
                wrong_shares = np.array(at_5_percent) * share / 0.05
                run = partial(first_alarms_by_strata, bets, wrong_shares, streams=streams, verdicts=2000, seed=2026)
                alarms, dropped = run(weighted=True), np.isfinite(run(weighted=False)).mean() if share == 0.05 else np.nan
                print(
                    f"{name:12} {where:11} {share:7.3f} {np.isfinite(alarms).mean():6.3f} {np.median(alarms):16.0f} {dropped:21.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
