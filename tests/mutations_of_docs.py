"""Mutations of what builds the site: by file what is there, what takes its place, and who must notice."""

DOCS: dict[str, list[tuple[str, ...]]] = {
    "docs/architecture.py": [
        (  # imports within functions would not count
            "found += [node, *_running(node)]",
            "found += [node]",
            "test_architecture.py::test_imports_within_functions_count_and_those_of_types_do_not",
        ),
        (
            "if not any(other in reach[way] for way in others)",
            "if any(other in reach[way] for way in others)",
            "test_architecture.py::test_every_module_and_every_import_is_in_the_picture",
        ),
        (
            "if name in above:",
            "if name in above[1:]:",
            "test_architecture.py::test_a_circle_is_refused",
        ),
    ],
    "docs/check_links.py": [
        (
            "if not target.exists():",
            "if not target.parent.exists():",
            "test_check_links.py::test_a_link_that_leads_nowhere_is_told",
        ),
        (
            "elif parts.fragment and target in pages",
            "elif not parts.fragment and target in pages",
            "test_check_links.py::test_a_link_that_leads_nowhere_is_told",
        ),
    ],
}
