#!/bin/sh
# Without a container engine: the service on a file system that has only the packages of docker/locked/serve.txt and this code, read-only,
# as the user 10001 without privileges. Run by `make try-image`, as root on Linux; $1 is uv, $2 a model file.
set -eu
uv=$1 model=$2 python=${PYTHON:-/usr/bin/python3.11}
image=$(mktemp -d /var/tmp/image.XXXXXX)
trap 'kill "$service" 2>/dev/null || true; rm -rf "$image"' EXIT
service=
"$uv" pip install --quiet --python "$python" --require-hashes --no-deps --target "$image/packages" -r docker/locked/serve.txt
cp -r src "$image/src"
cp "$model" "$image/best.onnx"
chmod -R a+rX "$image"
cd /
unshare --mount sh -euc "
    mount --bind '$image' /mnt
    mount -o remount,bind,ro /mnt
    mount -o remount,bind,ro /
    mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp
    exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set -all \
        env -i PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/mnt/src:/mnt/packages MODEL_PATH=/mnt/best.onnx \
        '$python' -S -m carinspect.cli.main serve --host 127.0.0.1 --port 18765
" &
service=$!
for _ in $(seq 120); do
    kill -0 "$service" || exit 1
    if "$python" -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:18765/readyz", timeout=5)' 2>/dev/null; then
        echo "ready, as the user $(stat -c %u /proc/$service)"
        exit
    fi
    sleep 1
done
echo "not ready after two minutes" >&2
exit 1
