"""A file that holds no diagnosis is refused in one line; what a diagnosis finds is in test_cli.py."""

import pytest
from minbert_multitask import smart_diagnosis


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"is no JSON .*; make one with `minbert diagnose-smart`$"),
        ("[]", r"must hold a JSON object, got list; make one with `minbert diagnose-smart`$"),
        ("{}", r"is no diagnosis of this version; make one with `minbert diagnose-smart`$"),
        (
            f'{{"format": "{smart_diagnosis.FORMAT}", "version": {smart_diagnosis.VERSION}}}',
            r"tasks must be dict, got 'None'$",
        ),
    ],
)
def test_a_file_of_something_else_is_refused_by_its_name(tmp_path, content, message):
    path = tmp_path / "diagnosis.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"^{path}.* ?{message}"):
        smart_diagnosis.load(path)
