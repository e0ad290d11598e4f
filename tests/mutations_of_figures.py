"""Mutations of the example's figures: by file what is there, what takes its place, and who must notice."""

_PACKAGE = "examples/minbert_multitask"

FIGURES: dict[str, list[tuple[str, ...]]] = {
    f"{_PACKAGE}/intervals.py": [
        (
            "variance(values) / len(values)",
            "variance(values)",
            "test_intervals.py::test_the_two_errors_are_added_in_squares",
        ),
        (
            "freedom = (seeds - 1) * (total / of_seeds) ** 2 if of_seeds else math.inf",
            "freedom = math.inf",
            "test_intervals.py::test_without_an_error_of_the_examples_it_is_students",
            "test_intervals.py::test_of_three_seeds_it_covers_the_truth_in_at_least_90_of_100_experiments",
        ),
        (
            "total = of_examples + of_seeds",
            "total = of_seeds or of_examples",
            "test_intervals.py::test_of_three_seeds_it_covers_the_truth_in_at_least_90_of_100_experiments",
        ),
    ],
    f"{_PACKAGE}/families.py": [
        (
            "enumerate(members) if name in rows",
            "enumerate(name for name in members if name in rows)",
            "test_families.py::test_a_rows_look_does_not_depend_on_which_others_have_runs",
        ),
    ],
    f"{_PACKAGE}/tradeoff_figure.py": [
        (
            "(x.value, x.value), (y.low, y.high)",
            "(x.value, x.value), (x.low, x.high)",
            "test_rows_figure.py::test_the_trade_off_has_every_row_in_its_family_and_all_others_in_grey",
        ),
    ],
    f"{_PACKAGE}/figures.py": [
        (
            "by_row if over_training and len(group.rows) > 1 else None",
            "by_row",
            "test_figures.py::test_all_rows_give_files_of_a_size_to_be_read",
        ),
    ],
}
