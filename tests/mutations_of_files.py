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
    f"{_PACKAGE}/weights.py": [
        ('map_location="cpu", weights_only=True', 'map_location="cpu", weights_only=False', _HOSTILE),
    ],
}
