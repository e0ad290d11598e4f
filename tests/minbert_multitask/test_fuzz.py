"""Whatever stands in a file: it is read, or refused in one line; ``make fuzz`` goes on for minutes."""

import io
import struct
import zipfile

import pytest
import torch

from tests.minbert_multitask import places
from tests.minbert_multitask.fuzz import never_a_traceback


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    places.make(folder)
    return folder


@pytest.mark.parametrize("file", places.READERS)
def test_no_file_makes_a_traceback(file, place):
    never_a_traceback(place, file, max_examples=8)


def test_a_checkpoint_with_a_flipped_bit_is_refused(place):
    file = "stopped/multitask-11711/checkpoint.pt"
    content = bytearray((place / file).read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensors = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    largest = max(tensors, key=lambda entry: entry.file_size)
    name_and_extra = struct.unpack_from("<HH", content, largest.header_offset + 26)
    content[largest.header_offset + 30 + sum(name_and_extra)] ^= 1
    torch.load(io.BytesIO(content), weights_only=True)  # does not see it
    with places.replaced(place, file, bytes(content)):
        status, line = places.call(*places.READERS[file])
    assert status == 2
    assert "checkpoint.pt is truncated or no checkpoint of this program; delete it" in line
