"""Plays the people of docs/tutorial.md: knows from a table of labels what is right, and answers as a careful person would.

python examples/loop/person.py remark TRUTH.csv QUESTION ADDRESS FOLDER   correct the answers of the service to each photo of a folder
python examples/loop/person.py judge  TRUTH.csv QUESTION SHEET.csv        fill in the sheet of `carinspect audit draw`
python examples/loop/person.py label  TRUTH.csv QUESTION EXPORT OUT.json  label what `carinspect labels export --tool coco` wrote
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

import httpx
import pandas as pd
import yaml


def read_truth(table: str, question: str) -> dict[str, str]:
    """SHA-256 of a photo → the class that is right."""
    asked = yaml.safe_load(Path("params.yaml").read_text())["questions"][question]
    known = pd.read_csv(table).dropna(subset=asked["column"])
    return {row["sha256"]: asked["classes"][int(row[asked["column"]])] for _, row in known.iterrows()}


def remark(table: str, question: str, address: str, folder: str) -> None:
    """Say what is right wherever the service is wrong or unsure."""
    truth, photos, corrected = read_truth(table, question), sorted(Path(folder).iterdir()), 0
    with httpx.Client(base_url=address, timeout=60) as service:
        for photo in photos:
            content = photo.read_bytes()
            right = truth[sha256(content).hexdigest()]
            answer = service.post("/predict/file", files={"file": content}).raise_for_status().json()
            if answer["answers"][question]["decision"] != right:
                said = {"question": question, "verdict": right, "model_version": answer["model_version"]}
                service.post("/feedback", params=said, files={"file": content}).raise_for_status()
                corrected += 1
    print(f"{len(photos)} photos looked at, {corrected} answers corrected")


def judge(table: str, question: str, sheet: str) -> None:
    """Write what is right beside each photo of the sheet."""
    truth, rows = read_truth(table, question), pd.read_csv(sheet, dtype=str, keep_default_na=False)
    rows["verdict"] = rows["photo_sha256"].map(truth)
    rows["by"] = "tutorial"
    rows.to_csv(sheet, index=False)


def label(table: str, question: str, export: str, out: str) -> None:
    """Label every photo of an export: in COCO, as a box around all of it."""
    truth = read_truth(table, question)
    coco = json.loads(Path(export, "annotations.json").read_text())
    numbers = {category["name"]: category["id"] for category in coco["categories"]}
    coco["annotations"] = [
        {
            "id": image["id"],
            "image_id": image["id"],
            "category_id": numbers[f"{question}:{truth[Path(image['file_name']).stem]}"],
            "bbox": [0, 0, image["width"], image["height"]],
        }
        for image in coco["images"]
    ]
    Path(out).write_text(json.dumps(coco))


if __name__ == "__main__":
    {"remark": remark, "judge": judge, "label": label}[sys.argv[1]](*sys.argv[2:])
