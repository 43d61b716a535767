"""How often `carinspect compare` calls two equally good models different, with all questions, by the number of groups.

    python benchmarks/comparison.py [--draws 1000]

Three binary questions, one score and one of four classes, three photos a group; both models err alike in part, half of a score's deviation
belongs to the group. Prints the share of comparisons with any clear difference (at most .05 is promised).
"""

import argparse

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from carinspect.comparison.differences import FEWEST_GROUPS, Model, compare_predictions
from carinspect.core.questions import Question

WORDS = ("clear", "rain", "fog", "snow")
BINARY = [Question(name=name, kind="binary", column=f"is_{name}", classes=("no", "yes"), good="yes") for name in ("a", "b", "c")]
SCORE = Question(name="score", kind="score", column="the_score")
CLASSES = Question(name="weather", kind="classes", column="the_weather", classes=WORDS)


def draw_models(random: np.random.Generator, groups: int, distance: float) -> list[Model]:
    """Two models of equal quality. distance: between the two classes of a binary question, in deviations."""
    group = np.repeat(np.arange(groups), 3)
    photos = len(group)

    def noise() -> np.ndarray:
        return (random.normal(size=groups)[group] + random.normal(size=photos)) / 2**0.5

    labels = {question.column: (random.random(groups) < 0.5)[group].astype(float) for question in BINARY}
    score, weather = random.random(photos), random.integers(0, 4, groups)[group]
    truth = pd.DataFrame({"image_path": [f"{number:06}" for number in range(photos)], "sha256": "0", "split": "test"})
    truth = truth.assign(group=[f"{one:05}" for one in group], the_score=score, the_weather=weather.astype(float), **labels)
    shared = {name: noise() for name in ("a", "b", "c", "score")}
    models = []
    for model in ("A", "B"):
        table = truth.copy()
        for question in BINARY:
            common = (shared[question.name] + noise()) / 2**0.5
            logit = distance * (distance * (table[question.column] - 0.5) + common)
            table = table.assign(**{question.raw_columns[0]: logit, question.answer_columns[0]: expit(logit)})
        table["score"] = score + 0.1 * (shared["score"] + noise())
        logits = 2.5 * np.eye(4)[weather] + random.normal(size=(photos, 4)) + random.normal(size=(groups, 4))[group]
        table[list(CLASSES.raw_columns)] = logits
        table[list(CLASSES.answer_columns)] = softmax(logits, axis=1)
        models.append(Model(model, (*BINARY, SCORE, CLASSES), table, {question.name: 0.6 for question in BINARY}))
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    print("groups     AUC .80     AUC .95")
    for groups in (FEWEST_GROUPS, 15, 20, 30, 100):
        wrong = []
        for distance in (1.19, 2.33):
            found = [compare_predictions(*draw_models(np.random.default_rng((7, number)), groups, distance), confidence=0.95).verdict
                     for number in range(draws)]  # fmt: skip
            wrong.append(np.mean([verdict != "no clear difference" for verdict in found]))
        print(f"{groups:6} {wrong[0]:11.3f} {wrong[1]:11.3f}", flush=True)


if __name__ == "__main__":
    main()
