"""Mutations of PCGrad and its rows: by file what is there, what takes its place, and who must notice."""

PCGRAD: dict[str, list[tuple[str, ...]]] = {
    "gradsurgery/gradients.py": [
        (  # reach by value
            "[p in row for row in rows].count(True)",
            "[p in row and bool(row[p].any()) for row in rows].count(True)",
            "test_faults.py::test_5_a_zero_gradient_is_still_one_of_a_shared_parameter",
        ),
        (
            "held[parameter].add_(gradient)",
            "held[parameter] = gradient",
            "test_tasks.py::test_accumulated_micro_batches_equal_one_big_batch",
        ),
        (
            "elif _overlaps(local, memory.get(address)) or",
            "elif",
            "test_gradients.py::test_overlapping_memory_is_copied_within_a_row_and_between_rows",
        ),
        (
            "or _overlaps(local, self._memory.get(address)):",
            "or False:",
            "test_gradients.py::test_overlapping_memory_is_copied_within_a_row_and_between_rows",
            "test_gradients.py::test_one_gradient_tensor_in_all_tasks_is_not_written_before_it_is_read",
        ),
        (  # a parameter that comes to a row later
            "                self._memory.setdefault(local.untyped_storage().data_ptr(), []).append(local)",
            "                pass",
            "test_gradients.py::test_memory_that_only_a_row_from_before_has_is_told_from_its_own",
        ),
        (
            "if not _same_layout(local, sharding.local(parameter)):",
            "if False:",
            "test_gradients.py::test_rows_in_different_memory_layouts",
        ),
        (
            "total[parameter] = gradient.clone() if copy else gradient",
            "total[parameter] = gradient",
            "test_gse.py::test_both_updates_go_through_one_optimizer",
        ),
    ],
    "gradsurgery/vectors.py": [
        (
            "return products if _are_safe(products, rows) else _dots([row.double() for row in rows])",
            "return products",
            "test_vectors.py::test_products_at_every_scale_of_float32[in place]",
        ),
        (
            "return products if _are_safe(products, rows) else _matrix_products(rows.double())",
            "return products",
            "test_faults.py::test_2_the_scale_does_not_matter_in_float32",
        ),
        (
            "max(abs(factor) for some in factors for factor in some) > _LARGEST",
            "False",
            "test_vectors.py::test_a_weight_beyond_float32_meets_its_tiny_gradient",
        ),
        (
            "CHUNK = 9 * 2**14",
            "CHUNK = 2**20",
            "test_vectors.py::test_products_of_long_rows_are_exact_to_a_millionth[2]",
        ),
        (
            'torch.autocast("cpu", enabled=False)',
            'torch.autocast("cpu", enabled=True)',
            "test_vectors.py::test_products_under_autocast_are_not_rounded[gathered on the CPU]",
        ),
        (  # every tensor by itself
            "if first(parameter).numel() < SMALL:\n            small.append(parameter)",
            "if False:\n            small.append(parameter)",
            "test_vectors.py::test_small_tensors_take_one_call_each_slab",
        ),
        (  # every tensor is gathered
            "if first(parameter).numel() < SMALL:\n            small.append(parameter)",
            "if True:\n            small.append(parameter)",
            "test_vectors.py::test_large_tensors_are_multiplied_where_they_are_however_many_the_tasks",
        ),
        (  # new memory for each slab
            "if dtype not in buffers:",
            "if True:",
            "test_vectors.py::test_all_slabs_of_the_cpu_are_gathered_into_one_buffer",
        ),
        (  # all rows at once
            "most = max(GATHERED // tasks // _ALIGNED, 1) * _ALIGNED",
            "most = 2**40",
            "test_vectors.py::test_memory_is_for_one_slab_at_a_time_whatever_the_parameters[small, 8 tasks]",
        ),
        (  # the second sum is of rows that the first was written over
            "t.clone() if t is first(piece) else t for t in piece",
            "t for t in piece",
            "test_vectors.py::test_a_second_sum_is_of_the_rows_as_they_were",
        ),
        (
            "if weight not in (0.0, 1.0) and others:",
            "if weight != 1.0 and others:",
            "test_vectors.py::test_a_weight_of_zero_keeps_what_is_not_finite",
        ),
    ],
    "gradsurgery/projection.py": [
        (
            "products.clamp(max=0)",
            "products",
            "test_projection.py::test_without_conflict_the_result_is_exactly_the_sum",
        ),
        (  # an adjusted gradient where Algorithm 1 takes the original
            "products = (C * gramian[j]).sum(1)",
            "products = (C * (C @ gramian)[j]).sum(1)",
            "test_projection.py::test_the_gramian_form_is_algorithm_1",
        ),
        (
            "products.clamp(max=0) / squares[j])",
            "products.clamp(max=0) / (squares[j] + 1e-8))",
            "test_projection.py::test_the_result_scales_with_the_gradients_in_float32",
        ),
        (
            "torch.where(squares[j] == 0, 0.0, products.clamp(max=0) / squares[j])",
            "products.clamp(max=0) / squares[j]",
            "test_projection.py::test_a_task_with_a_zero_gradient_changes_nothing",
        ),
        (  # the gradient as it was in place of the one that is projected
            "product = sum(map(mul, c, G[j]))",
            "product = G[i][j]",
            "test_projection.py::test_the_gramian_form_is_algorithm_1",
        ),
        (  # what is no number would not show
            "not product >= 0:",
            "product < 0:",
            "test_projection.py::test_a_zero_gradient_is_not_divided_by_where_another_is_not_finite",
        ),
        (
            "G[j][j] != 0 and not product",
            "not product",
            "test_projection.py::test_a_zero_gradient_is_not_divided_by_where_another_is_not_finite",
        ),
        (  # one order for all tasks
            'torch.rand(tasks, max(tasks - 1, 0), generator=generator, device="cpu").argsort(dim=1)',
            "torch.rand(1, max(tasks - 1, 0), generator=generator).argsort(dim=1).expand(tasks, -1)",
            "test_projection.py::test_orders_are_uniform_and_drawn_anew_for_each_task",
        ),
        (
            ", generator=generator, device",
            ", device",
            "test_projection.py::test_the_order_comes_from_the_generator_alone",
        ),
        (
            "| (cosine >= goal)",
            "| (cosine >= 0)",
            "test_projection.py::test_gradvac_is_its_algorithm",
        ),
        (  # the formula as it is often copied, with the sines exchanged
            "(goal * sine - cosine * goal_sine) / (lengths[j] * goal_sine)",
            "(goal * goal_sine - cosine * sine) / (lengths[j] * goal_sine)",
            "test_projection.py::test_two_tasks_of_gradvac_reach_the_goal_from_below",
        ),
        (
            "(1 - beta) * goal + beta * cosine, goal)",
            "beta * goal + (1 - beta) * cosine, goal)",
            "test_projection.py::test_gradvac_is_its_algorithm",
        ),
        (  # an infinity poisons the average for good
            "torch.where(cosine.isfinite(), (1 - beta) * goal + beta * cosine, goal)",
            "(1 - beta) * goal + beta * cosine",
            "test_projection.py::test_a_gradient_that_is_not_finite_is_seen_and_leaves_its_averages_alone",
        ),
        (  # by position in place of by name
            "[names.index(task) for task in self.tasks]",
            "range(len(self.tasks))",
            "test_projection.py::test_the_averages_of_gradvac_belong_to_names",
        ),
        (
            "self._averages.get(self.part, ",
            "self._averages.get(0, ",
            "test_projection.py::test_the_averages_of_gradvac_belong_to_parts",
        ),
        (
            'self._averages = state.get("averages", {})',
            "pass",
            "test_every_method.py::test_a_run_resumed_from_a_checkpoint_equals_one_that_was_not_interrupted[GradVac]",
        ),
    ],
}
