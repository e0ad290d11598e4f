"""Mutations of what reads files: by file what is there, what takes its place, and who must notice."""

_PACKAGE = "examples/minbert_multitask"
_HOSTILE = "test_security.py::test_no_reader_runs_it_and_each_says_so_in_one_line"

FILES: dict[str, list[tuple[str, ...]]] = {
    f"{_PACKAGE}/checkpoint.py": [
        ('map_location="cpu", weights_only=True', 'map_location="cpu", weights_only=False', _HOSTILE),
        (
            "if damaged:",
            "if False:",
            "test_fuzz.py::test_a_checkpoint_with_a_flipped_bit_is_refused",
        ),
    ],
    f"{_PACKAGE}/run_folder.py": [
        (  # another row of the name goes on
            "for key, (was, now) in self.experiment.changed(had).items():",
            "for key, (was, now) in ():",
            "test_bad_input.py::test_resume_of_a_row_that_was_another",
        ),
        (
            '            "weights\' fingerprint": inputs.weights_fingerprint,\n',
            "",
            "test_bad_input.py::test_resume_with_other_weights_of_the_same_name",
        ),
        (
            "for name, (was, now) in experiment.changed(result.definition).items():",
            "for name, (was, now) in ():",
            "test_bad_input.py::test_resume_of_a_row_that_was_another",
        ),
        (
            'if not trained and self.weights_fingerprint not in ("", inputs.weights_fingerprint):',
            "if False:",
            "test_bad_input.py::test_resume_with_other_weights_of_the_same_name",
        ),
    ],
    f"{_PACKAGE}/comparable.py": [
        (
            "pairs.append((run.definition, other.definition))",
            "pass",
            "test_table.py::test_runs_of_two_definitions_of_a_row_or_of_two_weights_are_not_one_row",
            "test_reproduction.py::test_records_of_two_definitions_of_a_row_are_not_judged_together",
        ),
        (
            "if [epoch.iterations for epoch in run.epochs] != [epoch.iterations for epoch in other.epochs]:",
            "if False:",
            "test_table.py::test_runs_of_two_definitions_of_a_row_or_of_two_weights_are_not_one_row",
        ),
    ],
    f"{_PACKAGE}/reproduction.py": [
        (
            "in row.changed(result.definition).items():",
            "in ():",
            "test_reproduction.py::test_records_of_another_row_of_the_name_or_other_weights_are_refused",
        ),
    ],
    f"{_PACKAGE}/weights.py": [
        ('map_location="cpu", weights_only=True', 'map_location="cpu", weights_only=False', _HOSTILE),
    ],
}
