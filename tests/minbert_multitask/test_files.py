"""A file is whole or the former one, whatever happens while it is written."""

import errno
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minbert_multitask.files import write_atomically


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@settings(max_examples=50)
@given(st.one_of(st.binary(), st.text(st.characters(codec="utf-8"))))
def test_what_is_written_is_read_back_to_the_byte(shared, content):
    path = shared / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(shared) == ["file"]


def test_folders_are_made_and_a_longer_former_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, "much longer than the second")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["file.txt"]


def test_the_former_file_stays_in_place_until_the_new_one_is_on_the_disk(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "former")
    seen = []

    def fsync(descriptor, real=os.fsync):
        real(descriptor)
        beside = next(entry for entry in tmp_path.iterdir() if entry != path)
        seen.append((path.read_text(), beside.read_text()))

    with patch("os.fsync", fsync):
        write_atomically(path, "later")
    assert seen == [("former", "later")]
    assert path.read_text() == "later"


@contextmanager
def failing(where, number):
    """Makes one of the steps of a write fail as a full or a read-only disk does."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    if where == "write":
        real_open = Path.open

        def opened(self, *args, **kwargs):
            file = real_open(self, *args, **kwargs)
            return FailingWrites(file, fail)

        with patch.object(Path, "open", opened):
            yield
    else:
        with patch(
            {"open": "pathlib.Path.open", "fsync": "os.fsync", "rename": "pathlib.Path.replace"}[where], fail
        ):
            yield


class FailingWrites:
    """A file that takes half of what it is given, then fails."""

    def __init__(self, file, fail):
        self.file, self.fail = file, fail

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.fail()


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("open", errno.EROFS),
        ("open", errno.EACCES),
        ("open", errno.ENOSPC),
        ("write", errno.ENOSPC),
        ("write", errno.EDQUOT),
        ("fsync", errno.EIO),
        ("rename", errno.EROFS),
    ],
)
def test_a_failed_write_names_the_file_leaves_the_former_and_no_litter(tmp_path, where, number):
    path = tmp_path / "file"
    path.write_text("former")
    with failing(where, number), pytest.raises(OSError, match=os.strerror(number)) as caught:
        write_atomically(path, "later")
    assert caught.value.errno == number
    assert str(caught.value).endswith(f": {str(path)!r}")
    assert path.read_text() == "former"
    assert names(tmp_path) == ["file"]


def test_a_read_only_disk_is_what_the_error_says_even_though_it_refuses_to_clean_up_too(tmp_path):
    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    path = tmp_path / "file"
    with (
        patch.object(Path, "open", refuse),
        patch.object(Path, "unlink", refuse),
        pytest.raises(OSError, match="Read-only") as caught,
    ):
        write_atomically(path, "later")
    assert caught.value.filename == str(path)


@contextmanager
def unprivileged():
    """Runs the block as a user whom permission bits bind, which root is not."""
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("needs to run as another user than root")
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_really_read_only_folder_is_refused_and_the_former_file_stays():
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which only its owner may enter
        path = Path(name, "file")
        path.write_text("former")
        path.parent.chmod(0o555)
        with unprivileged(), pytest.raises(PermissionError) as caught:
            write_atomically(path, "later")
        assert caught.value.filename == str(path)
        assert path.read_text() == "former"
        path.parent.chmod(0o755)
        assert names(path.parent) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_really_full_device_is_refused_and_the_former_file_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")
    (tmp_path / f".file.{os.getpid()}").symlink_to("/dev/full")  # the file beside is a device without room
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, "later" * 10_000)
    assert path.read_text() == "former"
    assert names(tmp_path) == ["file"]
    assert Path("/dev/full").exists()


def test_a_file_too_large_for_its_disk_leaves_the_former_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")
    script = "import sys; from pathlib import Path; from minbert_multitask.files import write_atomically; "
    script += "write_atomically(Path(sys.argv[1]), bytes(1 << 20))"
    limited = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large" in limited.stderr
    assert path.read_text() == "former"
    assert names(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")

    def interrupt(_):
        raise KeyboardInterrupt

    with patch("os.fsync", interrupt), pytest.raises(KeyboardInterrupt):
        write_atomically(path, "later")
    assert path.read_text() == "former"
    assert names(tmp_path) == ["file"]


def test_a_killed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")
    script = (
        "import os, sys; from pathlib import Path; from minbert_multitask.files import write_atomically; "
    )
    script += "os.fsync = lambda _: os.kill(os.getpid(), 9); write_atomically(Path(sys.argv[1]), 'later')"
    killed = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert killed.returncode == -9
    assert path.read_text() == "former"
    write_atomically(path, "later")
    assert path.read_text() == "later"


def test_a_folder_in_its_place_or_a_file_for_a_folder_is_refused(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", "text")
    assert names(tmp_path) == ["folder"]
    (tmp_path / "file").write_text("former")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "inside", "text")
    assert (tmp_path / "file").read_text() == "former"
