"""Each bad call is refused in one line, that of the golden file; ``make errors`` writes the file anew."""

import re

import pytest

from tests.errors.messages import GOLDEN, messages

LINES = GOLDEN.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    return messages(tmp_path_factory.mktemp("place").resolve())


def test_the_messages_are_those_of_the_golden_file(now):
    assert now == LINES, "if the new messages are better, run `make errors`"


def test_there_are_sixty_and_more_and_each_is_an_error_with_a_remedy():
    assert len(LINES) > 60
    for line in LINES:
        _, name, said = line.split(" | ", 2)
        assert re.match(
            r"(TypeError|ValueError|RuntimeError|NotImplementedError): |2: minbert: error: ", said
        ), name
        assert len(said) > 40, name
