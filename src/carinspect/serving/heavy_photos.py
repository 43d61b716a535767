"""Photos that are costly to decode: told by their header, and decoded one at a time in a process that can be ended."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from carinspect.core.programs import die_with_parent
from carinspect.images.decode import PhotoError, open_photo
from carinspect.images.upright import load_with_size
from carinspect.serving.refusals import RefusalError

LIGHT_PIXELS = 16_000_000
"""Decoded in a thread; more than most cameras' photos. A JPEG of one scan is light whatever its size: it is decoded at a reduced scale."""
LIGHT_SCANS = 10
"""Of a progressive JPEG of `LIGHT_PIXELS`, which is decoded scan by scan; smaller ones may have more. Encoders make about ten."""
CPU_S = 3
MEMORY_BYTES = 340_000_000
"""Beside some 60 MB of an interpreter with Pillow."""
WALL_S = 10.0
TOGETHER = 4
"""Heavy photos of a request, and those that wait in a worker."""
_WIDE_MODES = {"I": 4, "F": 4, "I;16": 4, "I;16B": 4, "I;16L": 4, "RGBA": 2, "LA": 2, "PA": 2}
_REFUSED = 3
_SIZE = struct.Struct("=II")
"""Before the pixels: the upright photo's width and height."""
_TOO_COSTLY = (
    f"Refused: to decode the photo takes more than {CPU_S} s or {MEMORY_BYTES // 1_000_000} MB. Save it again, smaller, as a JPEG."
)


def is_heavy(photo: Image.Image, content: bytes) -> bool:
    """Whether the opened, not yet decoded photo may cost more than a thread should spend; content: of its file."""
    width_px, height_px = photo.size
    pixels = width_px * height_px * _WIDE_MODES.get(photo.mode, 1)
    if photo.format == "HEIF":
        # Whatever its size: libheif and libde265 had errors in 2026 by which a photo could run code, and take a second for a phone's photo.
        return True
    if photo.format not in ("JPEG", "MPO"):
        return pixels > LIGHT_PIXELS
    scans = _scans(photo, content)
    return scans > 1 and (pixels > LIGHT_PIXELS or pixels * scans > LIGHT_PIXELS * LIGHT_SCANS)


def _scans(photo: Image.Image, content: bytes) -> int:
    """The scans of a JPEG, or more (what lies behind it may look like some). Source of the markers: ITU-T T.81, annex B."""
    place = 2
    while place + 5 < len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xDA:
            # A decoder reads one scan and no more where a sequential photo's first one holds all of its components.
            whole = content[place + 4] >= getattr(photo, "layers", 0) and not photo.info.get("progressive")
            return 1 if whole else content.count(b"\xff\xda", place)
        place += 1 if marker == 0xFF else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return content.count(b"\xff\xda")


def decode_apart(content: bytes, side_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """`load_with_size` in a process with limits; it waits for that process. Raises `PhotoError`, and `RefusalError` beyond the limits."""
    command = [sys.executable, "-m", "carinspect.serving.heavy_photos", str(side_px), str(os.getpid())]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=WALL_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise RefusalError(413, _TOO_COSTLY) from None
    if done.returncode == _REFUSED:
        raise PhotoError(done.stderr.decode(errors="replace"))
    if done.returncode != 0 or len(done.stdout) != _SIZE.size + side_px * side_px * 3:
        raise RefusalError(413, _TOO_COSTLY)
    width_px, height_px = _SIZE.unpack_from(done.stdout)
    return np.frombuffer(done.stdout, np.uint8, offset=_SIZE.size).reshape(side_px, side_px, 3), (width_px, height_px)


def _main() -> None:
    side_px, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent_pid)
    # Whoever waits for a usual photo goes first.
    os.nice(5)
    content = sys.stdin.buffer.read()
    _limit()
    try:
        photo = open_photo(content)
    except PhotoError:
        # The service has read this header already, so only memory was missing (WebP takes it when it is opened).
        sys.exit(1)
    try:
        pixels, size_px = load_with_size(photo, side_px)
    except PhotoError as error:
        # Pillow says in many ways that it got no memory.
        if isinstance(error.__context__, MemoryError):
            sys.exit(1)
        sys.stderr.write(str(error))
        sys.exit(_REFUSED)
    except MemoryError:
        sys.exit(1)
    sys.stdout.buffer.write(_SIZE.pack(*size_px) + pixels.tobytes())


def _limit() -> None:
    mapped_bytes = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + MEMORY_BYTES,) * 2)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = int(usage.ru_utime + usage.ru_stime)
    # SIGXCPU ends the process.
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + CPU_S, used_s + CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _main()
