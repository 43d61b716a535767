"""Replay: is `carinspect next` better than a random draw, and is the number of labels right that it says a promise takes?

    python benchmarks/next.py FOLDER tf_efficientnet_lite0 weights.safetensors [--draws 10]

FOLDER is a data root that examples/real_photos/sources.yaml describes; it is only read. Its labels are hidden, and shown as they are
chosen, in eight rounds up to a half of them. The model is a logistic regression on frozen features. `damaged` is tested on a source whose
photos were not to be chosen from; `clean` has one source, and is tested on two fifths of its groups. Intervals (95 %) resample the groups
of the test and the draws.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from growth import QUESTIONS
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import convert
from carinspect.core.data import DataParams
from carinspect.core.params import read_section
from carinspect.core.questions import Side, by_name
from carinspect.core.search import smallest
from carinspect.labelling.choice import choose_at_random, choose_teaching, measure_uncertainty
from carinspect.labelling.promise import foresee
from carinspect.model.learned import read_learned_features
from carinspect.scoring.ranking import Array, roc_auc
from carinspect.splits.config import SplitParams
from carinspect.splits.groups import label_groups, name_groups
from carinspect.splits.split import find_links
from carinspect.thresholds.choice import choose_guaranteed
from carinspect.thresholds.evidence import Target
from carinspect.thresholds.plan import Reference, fit_forecast
from carinspect.thresholds.sample import Sample

SOURCES = Path(__file__).parents[1] / "examples/real_photos/sources.yaml"
FIRST_SEED = 1000
"""The draws 0 to 19 served to choose `choice.SHARPNESS` among 1, 2, 4 and 8."""

START, STEPS, PENALTY, COMPONENTS, RESAMPLES = 20, 9, 100.0, 100, 200
LABELS = 20
"""Groups in calib when the number of labels still needed is foretold."""

TARGET = Target(precision=0.9, confidence=0.95, starts=2, bad_rate=None)
Choose = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Task:
    """One question, photos to choose from, and photos to test on: places in the table."""

    name: str
    column: str
    pool: np.ndarray
    test: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("weights")
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    table = read_photos(args.folder)
    paths, digests = table["image_path"].tolist(), table["sha256"].tolist()
    found = read_learned_features(args.folder, paths, digests, backbone=args.backbone, pretrained=args.weights)
    assert found is not None
    features = found.stages_NxF.astype(np.float64)
    replay_choice(table, features, draws=args.draws)
    replay_promise(table, features, draws=args.draws)


def read_photos(folder: Path) -> pd.DataFrame:
    """The table of the split, with `group`."""
    data = DataParams(root=str(folder), sources=str(SOURCES))
    questions = [question for question in QUESTIONS if question.name != "cleanliness"]
    table = convert(data, read_section("convert_annotations", ConvertAnnotationsParams), questions).table
    links = find_links(table, folder, read_section("split", SplitParams))
    return table.assign(group=name_groups(label_groups(len(table), links), table["image_path"]))


# ---- what teaches most


def by_margin(uncertainty: Array, features: Array, groups: np.ndarray, *, budget: int, random: np.random.Generator) -> np.ndarray:
    """The most uncertain ones."""
    return np.argsort(-uncertainty, kind="stable")[:budget]


def by_chance(uncertainty: Array, features: Array, groups: np.ndarray, *, budget: int, random: np.random.Generator) -> np.ndarray:
    return choose_at_random(groups, budget=budget, random=random)


WAYS: dict[str, Choose] = {"random": by_chance, "margin": by_margin, "next": choose_teaching}


def tasks(table: pd.DataFrame, seed: int) -> Iterator[Task]:
    """The photos to choose from are one of a group, none of a group that is tested."""
    known = table["damaged"].notna()
    for source in ("damage_folders", "rust_and_scrach"):
        tested = known & (table["source"] == source)
        yield _task(f"damaged, tested on {source}", "damaged", table, known, tested, seed)
    known = table["clean"].notna()
    groups = table.loc[known, "group"].unique()
    held_out = np.random.default_rng(seed).choice(groups, 2 * len(groups) // 5, replace=False)
    yield _task("clean, tested on other groups", "clean", table, known, known & table["group"].isin(held_out), seed)


def _task(name: str, column: str, table: pd.DataFrame, known: pd.Series, tested: pd.Series, seed: int) -> Task:
    left = table[known & ~table["group"].isin(table["group"][tested])].sample(frac=1, random_state=seed).drop_duplicates("group")
    return Task(name, column, left.index.to_numpy(), np.flatnonzero(tested))


def fit(inputs: Array, labels: Array) -> LogisticRegression:
    return LogisticRegression(C=1 / PENALTY, max_iter=300, class_weight="balanced").fit(inputs, labels)


def compress(features: Array, pool: np.ndarray) -> Array:
    scaler = StandardScaler().fit(features[pool])
    main = PCA(COMPONENTS, random_state=0, svd_solver="randomized").fit(scaler.transform(features[pool]))
    inputs = main.transform(scaler.transform(features))
    return inputs / inputs[pool].std()


def learn(task: Task, table: pd.DataFrame, features: Array, inputs: Array, way: Choose, *, step: int, seed: int) -> list[Array]:
    """The scores of the tested photos after each batch of labels."""
    random, labels, groups = np.random.default_rng(seed), table[task.column].to_numpy(np.float64), table["group"].to_numpy(str)
    while True:
        chosen = random.choice(task.pool, START, replace=False)
        if len(np.unique(labels[chosen])) == 2:
            break
    (question,) = [one for one in QUESTIONS if one.column == task.column]
    curve = []
    for _ in range(STEPS):
        model = fit(inputs[chosen], labels[chosen])
        curve.append(model.decision_function(inputs[task.test]))
        rest = np.setdiff1d(task.pool, chosen)
        answers = pd.DataFrame({question.answer_columns[0]: model.predict_proba(inputs[rest])[:, 1]})
        uncertainty = measure_uncertainty(answers, [question])
        chosen = np.concatenate([chosen, rest[way(uncertainty, features[rest], groups[rest], budget=step, random=random)]])
    return curve


def replay_choice(table: pd.DataFrame, features: Array, *, draws: int) -> None:
    """Print, for each task and way, the area under the learning curve and the labels that reach the AUC of all labels."""
    found: dict[str, dict[str, list[Array]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    full: dict[str, list[Array]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + draws):
        for task in tasks(table, seed):
            # Up to half of the labels.
            step = max(1, (len(task.pool) // 2 - START) // (STEPS - 1))
            sizes[task.name] = len(task.pool), step
            labels, groups = table[task.column].to_numpy(np.float64)[task.test], table["group"].to_numpy(str)[task.test]
            weights = resample(groups, random=np.random.default_rng(seed))
            inputs = compress(features, task.pool)
            best = fit(inputs[task.pool], table[task.column].to_numpy(np.float64)[task.pool]).decision_function(inputs[task.test])
            full.setdefault(task.name, []).append(roc_auc(labels, best, weights))
            for name, way in WAYS.items():
                curve = learn(task, table, features, inputs, way, step=step, seed=seed)
                areas = np.stack([roc_auc(labels, scores, weights) for scores in curve])
                found.setdefault(task.name, {}).setdefault(name, []).append(areas)
    for task_name, ways in found.items():
        pool, step = sizes[task_name]
        at_full = np.mean([one[0] for one in full[task_name]])
        print(f"\n{task_name}: {pool} groups to choose from, AUC {at_full:.3f} with all labels; {draws} draws")
        print(f"{'way':>8} {'area':>6} {'against random':>24} {'against margin':>24} {'at a half':>9}  labels that reach {at_full:.3f}")
        for name, curves in ways.items():
            curves_DxSxB = np.stack(curves)
            mean_S = curves_DxSxB[:, :, 0].mean(axis=0)
            reached = np.flatnonzero(mean_S >= at_full)
            labels_needed = (
                f"{START + step * reached[0]} ({(START + step * reached[0]) / pool:.0%})" if len(reached) else "none up to a half"
            )
            against = [say_difference(curves_DxSxB, np.stack(ways[other])) for other in ("random", "margin")]
            print(f"{name:>8} {mean_S.mean():6.4f} {against[0]:>24} {against[1]:>24} {mean_S[-1]:9.3f}  {labels_needed}", flush=True)


def resample(groups: np.ndarray, *, random: np.random.Generator) -> Array:
    """Weights (B, N): the first row are ones, each other one resamples the groups."""
    names, place = np.unique(groups, return_inverse=True)
    counts = random.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return np.vstack([np.ones(len(groups)), counts[:, place]])


def say_difference(curves_DxSxB: Array, other_DxSxB: Array) -> str:
    if curves_DxSxB is other_DxSxB or np.array_equal(curves_DxSxB, other_DxSxB):
        return ""
    difference_DxB = (curves_DxSxB - other_DxSxB).mean(axis=1)
    random = np.random.default_rng(0)
    draws = len(difference_DxB)
    means = [difference_DxB[random.integers(draws, size=draws), place].mean() for place in range(1, difference_DxB.shape[1])]
    low, high = np.nanquantile(means, [0.025, 0.975])
    return f"{difference_DxB[:, 0].mean():+.4f} ({low:+.4f} to {high:+.4f})"


# ---- how many labels a promise takes


def replay_promise(table: pd.DataFrame, features: Array, *, draws: int) -> None:
    """Print, for each word, how many more labels were foretold, and how many it then took."""
    print(f"\nlabels that a promise of {TARGET.precision} at the confidence {TARGET.confidence} still takes; medians of {draws} draws")
    print(f"{'word':>10} {'foretold':>8} {'it took':>8} {'ratio':>6} {'in the interval':>15} {'draws that proved it':>21}")
    for name in ("damaged", "clean"):
        question = by_name(QUESTIONS)[name]
        one_a_group = table[table[name].notna()].sample(frac=1, random_state=0).drop_duplicates("group")
        good = (one_a_group[name] == question.label_of("good")).to_numpy(np.int64)
        own = features[one_a_group.index]
        rows: dict[Side, list[tuple[float, float, bool]]] = {"good": [], "bad": []}
        for seed in range(FIRST_SEED, FIRST_SEED + draws):
            source, val, reference, new = pose(own, good, seed=seed)
            for side, found in rows.items():
                told = foresee(source, join(source, val), reference, TARGET, side=side, word=question.word(side), seed=seed)
                if told.proved:
                    continue
                took = needed_of(source, new, reference, side)
                low, high = (np.inf if bound is None else bound for bound in (told.low, told.high))
                inside = low <= took <= high if took is not None else high > len(new.score)
                found.append((np.inf if told.groups is None else told.groups, np.inf if took is None else took, inside))
        for side, found in rows.items():
            told_D, took_D, inside_D = np.array(found, float).reshape(-1, 3).T
            told_median, took_median = (float(np.median(one)) if len(one) else np.nan for one in (told_D, took_D))
            ratio = f"{told_median / took_median:6.2f}" if np.isfinite([told_median, took_median]).all() else "     –"
            inside_share = f"{inside_D.sum():.0f} of {len(found)}"
            proofs = f"{np.isfinite(took_D).sum()} of {len(found)}"
            print(f"{question.word(side):>10} {told_median:8.0f} {took_median:8.0f} {ratio} {inside_share:>15} {proofs:>21}", flush=True)


def needed_of(source: Sample, new: Sample, reference: Reference, side: Side) -> int | None:
    """How many groups of `new`, in their order, prove the word together with `source`, by the stage's own choice; None: all do not."""

    def suffices(groups: int) -> bool:
        choice = choose_guaranteed(join(source, new, groups), reference, TARGET)
        return bool(len(choice.may_be_high if side == "good" else choice.may_be_low))

    return smallest(suffices, start=min(32, len(new.score))) if suffices(len(new.score)) else None


def join(one: Sample, other: Sample, groups: int | None = None) -> Sample:
    """The first and so many of the second."""
    return Sample(*(np.concatenate([getattr(one, name), getattr(other, name)[:groups]]) for name in ("score", "good", "drawn")))


def pose(features: Array, good: Array, *, seed: int) -> tuple[Sample, Sample, Reference, Sample]:
    """calib so far, val, val's forecast, and the groups that are labelled next; the model learns from a fifth."""
    order = np.random.default_rng(seed).permutation(len(good))
    train, val, calib, new = np.split(order, [len(good) // 5, len(good) * 3 // 10, len(good) * 3 // 10 + LABELS])
    inputs = compress(features, train if len(train) > COMPONENTS else order)
    p_good = fit(inputs[train], good[train]).predict_proba(inputs)[:, 1].round(6)
    samples = [Sample(p_good[some], good[some], np.ones(len(some), bool)) for some in (calib, val, new)]
    reference = Reference(samples[1].score, fit_forecast(samples[1].score, samples[1].good.astype(np.float64))(samples[1].score))
    return samples[0], samples[1], reference, samples[2]


if __name__ == "__main__":
    main()
