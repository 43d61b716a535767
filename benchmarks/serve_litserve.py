"""The same model behind LitServe, as its documentation does it: one worker, no batching. benchmarks/serve.py runs it.

MODEL_PATH=models/best.onnx PYTHONPATH=src python benchmarks/serve_litserve.py PORT
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path

import litserve
import numpy as np
from fastapi import UploadFile

from carinspect.inference.bundle import open_bundle
from carinspect.inference.predictor import Answer, make_predictor


class Api(litserve.LitAPI):
    """Decodes and answers a photo in the worker, as LitServe has it."""

    def setup(self, device: str) -> None:
        self.predictor = make_predictor(open_bundle(Path(os.environ["MODEL_PATH"]), threads=1))

    def decode_request(self, request: UploadFile) -> np.ndarray:
        return self.predictor.load(request.file.read())

    def predict(self, photo: np.ndarray) -> Answer:
        return self.predictor.answer(photo[None])[0]

    def encode_response(self, answer: Answer) -> dict[str, object]:
        return {name: asdict(one) for name, one in answer.items()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
