"""The seal of a model file: a SHA-256 of everything before it, as the file's last bytes.

The seal is one more metadata entry of the ONNX file, in protobuf's wire format, so that any ONNX tool still reads the file. It shows that
nothing changed since the export: a flipped bit, a cut, an edited threshold. It is no signature: an attacker can compute a SHA-256 and seal
an altered file again. Where that matters, compare the whole file's SHA-256 with one that came another way.

Wire format: https://protobuf.dev/programming-guides/encoding; field numbers: ModelProto and StringStringEntryProto in onnx.proto.
"""

from hashlib import sha256

from carinspect.core.errors import UserError

KEY = b"carinspect_sha256"
_METADATA_PROPS = (14 << 3) | 2
_ENTRY_KEY, _ENTRY_VALUE = (1 << 3) | 2, (2 << 3) | 2


def seal(content: bytes) -> bytes:
    """`content`, a serialised ONNX model, with its seal at the end."""
    return content + _seal_of(content)


def check_seal(content: bytes) -> None:
    """Raise `UserError`, a sentence without the file's name, unless `content` is exactly what `seal` returned."""
    body, found = content[:-SEAL_BYTES], content[-SEAL_BYTES:]
    if found == _seal_of(body):
        return
    if KEY in content:
        raise UserError("altered or damaged since its export: its bytes do not match the SHA-256 inside it. Copy it again, or dvc pull it.")
    raise UserError("not a whole model file of this project: it does not end in a seal. Copy it again, or export one by dvc repro.")


def _seal_of(body: bytes) -> bytes:
    digest = sha256(body).hexdigest().encode()
    entry = bytes([_ENTRY_KEY, len(KEY)]) + KEY + bytes([_ENTRY_VALUE, len(digest)]) + digest
    # Every length is below 128 and therefore one byte of a varint.
    return bytes([_METADATA_PROPS, len(entry)]) + entry


SEAL_BYTES = len(_seal_of(b""))
