"""The list of mutations fits the sources and the tests as they are, so that it cannot rot unnoticed."""

import ast
import re

from tests.mutations import MUTATIONS, REPORT, ROOT


def test_every_mutation_is_in_its_file_once_and_still_python():
    for mutation in MUTATIONS:
        mutated = mutation.apply(ROOT)
        if mutation.file.endswith(".py"):
            ast.parse(mutated)
        assert mutation.replacement != mutation.fragment, mutation


def test_the_tests_that_must_notice_are_there():
    for mutation in MUTATIONS:
        assert mutation.tests, mutation
        for test in mutation.tests:
            file, *names = re.sub(r"\[.*", "", test).split("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert all(re.search(rf"^ *(def|class) {name}\b", text, re.MULTILINE) for name in names), test


def test_the_last_report_is_of_these_mutations_and_all_were_killed():
    summary, _, *lines = REPORT.read_text(encoding="utf-8").splitlines()
    assert summary == f"{len(MUTATIONS)} of {len(MUTATIONS)} killed"
    assert lines == [f"killed  {mutation}" for mutation in MUTATIONS]
