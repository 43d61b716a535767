"""Owns the four questions: their names, their label columns and their classes."""

from typing import Literal

Task = Literal["clean", "cleanliness", "damage", "weather"]

TASKS: tuple[Task, ...] = ("clean", "cleanliness", "damage", "weather")

LABEL_COLUMN: dict[Task, str] = {
    "clean": "clean",
    "cleanliness": "cleanliness_score",
    "damage": "damage_score",
    "weather": "weather_condition",
}
"""The column of the tables that holds each task's label."""

SPREAD: dict[str, str] = {"clean": "p_clean_std", "cleanliness": "cleanliness_std", "damage": "damage_std", "weather": "p_weather_std"}
"""Of each task's answer under Monte-Carlo dropout: a column of the predictions, an output of the model file."""

WEATHER_CLASSES: tuple[str, ...] = ("clear", "rain", "fog", "snow")
"""`weather_condition` is an index into this."""
