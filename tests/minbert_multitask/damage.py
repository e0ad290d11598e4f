"""Files that are nearly right: bytes changed anywhere, and values changed where the form is kept."""

import csv
import io
import json
import struct

import torch
from hypothesis import strategies as st

NUMBERS = (None, True, False, 0, -1, 2**31, 10**400, 0.5, -0.0, 1e308)
JUNK = st.sampled_from([*NUMBERS, "", "x", "nan", "../..", [], [[]], {}, {"a": 1}, ["x"] * 3])
MARKS = (b"", b"\x00", b'"', b"\t", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"{", b"1e999", b"\x80\x02.")


@st.composite
def other_bytes(draw, content):
    """Bytes: any, or the content cut, repeated, or with a few places overwritten."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 8, 100, len(data)])))
        twice = bytes(data[start:end]) * 2
        data[start:end] = draw(st.one_of(st.sampled_from([*MARKS, twice]), st.binary(min_size=1, max_size=4)))
    return bytes(data)


@st.composite
def other_values(draw, value):
    """A value of lists, dicts, numbers, strings and tensors with one place replaced, dropped or moved."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[draw(st.integers(0, len(keys) - 1))]
        changed = dict(value) if isinstance(value, dict) else list(value)
        match draw(st.integers(0, 7)):
            case 0:
                del changed[key]
            case 1:
                changed[key] = value[keys[draw(st.integers(0, len(keys) - 1))]]
            case _:
                changed[key] = draw(other_values(value[key]))
        return changed
    if isinstance(value, torch.Tensor):
        others = (value[..., :0], value.double(), value.int(), value.reshape(-1), value * 0 + 77)
        return draw(st.one_of(st.sampled_from(others), JUNK))
    return draw(JUNK)


@st.composite
def other_json(draw, content):
    """JSON with one value changed."""
    return json.dumps(draw(other_values(json.loads(content)))).encode()


@st.composite
def other_table(draw, content):
    """A table with one field, row or column changed."""
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter="\t"))
    changed = draw(other_values(rows))
    if not isinstance(changed, list):
        return str(changed).encode()
    lines = ["\t".join(map(str, row)) if isinstance(row, list) else str(row) for row in changed]
    return "".join(f"{line}\n" for line in lines).encode()


@st.composite
def other_safetensors(draw, content):
    """A safetensors file whose header has one value changed."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(draw(other_values(json.loads(content[8 : 8 + length])))).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


@st.composite
def other_checkpoint(draw, content):
    """What torch.load reads, with one value changed."""
    buffer = io.BytesIO()
    torch.save(draw(other_values(torch.load(io.BytesIO(content), weights_only=True))), buffer)
    return buffer.getvalue()


NEAR_MISSES = {
    ".json": other_json,
    ".csv": other_table,
    ".safetensors": other_safetensors,
    ".pt": other_checkpoint,
    ".bin": other_checkpoint,
    ".txt": other_table,
}


@st.composite
def damaged(draw, suffix, content):
    """A near miss of a file of this suffix, every other one of its form."""
    return draw((NEAR_MISSES[suffix] if draw(st.booleans()) else other_bytes)(content))
