#!/bin/sh
# Brings the model of revision MODEL_REV of the repository MODEL_REPO (a URL or a mounted folder) into /models, from its DVC remote.
set -eu
: "${MODEL_REPO:?set MODEL_REPO to the URL or the mounted folder of the repository}"
# Beside it and then renamed: a service that is running never sees half a file.
dvc get --force --rev "${MODEL_REV:-main}" --out /models/.best.onnx.new "$MODEL_REPO" models/best.onnx
mv /models/.best.onnx.new /models/best.onnx
