"""Mutations of gradsurgery: by file what is there, what takes its place, and who must notice."""

GRADSURGERY: dict[str, list[tuple[str, ...]]] = {
    "gradsurgery/kernels.c": [
        (
            "(square == 0 && !any(rows[i], n))",
            "square == 0",
            "test_kernels.py::test_rows_of_zeros_and_of_numbers_whose_squares_float32_does_not_have",
        ),
        (
            "square < HIGHEST",
            "square > 0",
            "test_kernels.py::test_rows_of_zeros_and_of_numbers_whose_squares_float32_does_not_have",
        ),
        (
            "for (int64_t rest = k; rest < n; rest++) total",
            "for (int64_t rest = k; rest + 1 < n; rest++) total",
            "test_kernels.py::test_every_length_and_number_of_rows[3-17]",
        ),
        (
            "#define PART (64 * LANES)",
            "#define PART (4096 * LANES)",
            "test_kernels.py::test_a_constant_row_is_exact_to_a_millionth",
        ),
        (
            "from = from < 0 ? 0 : from;",
            "from = 0;",
            "test_kernels.py::test_threads_divide_the_elements_among_them[3]",
        ),
        (
            "for (int64_t t = 1; t < count; t++) {\n            lanes x",
            "for (int64_t t = 1; t < count; t++) if (weights[t] != 0) {\n            lanes x",
            "test_kernels.py::test_what_is_not_finite_shows[nan]",
        ),
    ],
    "gradsurgery/kernels.py": [
        (
            " and not row.is_neg()",
            "",
            "test_kernels.py::test_a_negated_view_has_the_products_of_its_values",
        ),
        (
            "type(row) is Tensor and ",
            "",
            "test_kernels.py::test_other_rows_are_left_to_torch[of a class-row3]",
        ),
        (
            "tasks <= MOST_TASKS",
            "True",
            "test_kernels.py::test_other_rows_are_left_to_torch[double-row0]",
        ),
    ],
    "gradsurgery/tasks.py": [
        (
            "refuse_reentrant_checkpoint(name, loss)",
            "pass",
            "test_diagnosis.py::test_what_lies_below_a_checkpoint_is_seen_or_refused",
        ),
    ],
    "gradsurgery/optimizer.py": [
        (  # what a method makes of an absent task's length is multiplied by its zeros
            "weights.where(weights.isfinite() | (gramian.diagonal() != 0), 1.0)",
            "weights",
            "test_every_method.py::test_an_absent_task_changes_nothing_in_a_method_of_ones_own",
        ),
        (
            'dtype=torch.float64, device="cpu")',
            "dtype=torch.float64)",
            "test_every_method.py::test_the_default_device_does_not_matter",
        ),
        (  # a wait for the device
            "scale = scale.to(next(iter(by_part.values())).device, non_blocking=True)",
            "scale = scale * float(next(iter(by_part.values())).sum() == 0) + scale",
            "test_device.py::test_the_methods_that_wait_are_those_that_say_so[PCGrad]",
        ),
        (
            "self._checked_weights(add_up(gramians[-1].values())) * share",
            "self._checked_weights(add_up(gramians[-1].values()))",
            "test_faults.py::test_1_sum_is_the_sum_and_mean_the_mean",
        ),
        (
            "(scale * share).tolist()",
            "scale.tolist()",
            "test_faults.py::test_3_the_mean_divides_by_the_number_of_tasks_whoever_reaches_a_parameter",
        ),
        (
            "gradient if parameter.grad is None else parameter.grad.add_(gradient)",
            "gradient",
            "test_optimizer.py::test_a_gradient_from_before_is_added_to_in_its_own_memory",
        ),
        (
            "self._gradients = TaskGradients()\n        super().zero_grad",
            "super().zero_grad",
            "test_tasks.py::test_zero_grad_drops_what_was_accumulated",
        ),
        (
            'self.generator.set_state(state["generator"].cpu())',
            "pass",
            "test_wrapper.py::test_a_run_resumed_from_its_checkpoint_equals_one_that_was_not_interrupted",
        ),
        (
            "if self._gradients.rows:",
            "if False:",
            "test_wrapper.py::test_a_checkpoint_in_the_middle_of_an_accumulation",
        ),
    ],
    "gradsurgery/options.py": [
        (
            'if scope == "all" or count > 1',
            "if True",
            "test_faults.py::test_4_heads_do_not_enter_the_inner_products",
        ),
        (
            'if scope == "all" or count > 1',
            "if count > 1",
            "test_optimizer.py::test_scope_and_reduction_on_a_model_with_heads",
        ),
    ],
    "gradsurgery/wrapper.py": [
        (
            "self.optimizer.zero_grad(set_to_none)",
            "self.optimizer.zero_grad()",
            "test_any_loop.py::test_any_loop_of_one_task_is_that_of_the_bare_optimizer",
        ),
        (
            "self.optimizer.add_param_group(param_group)",
            "pass",
            "test_any_loop.py::test_any_loop_of_one_task_is_that_of_the_bare_optimizer",
        ),
        (
            "with torch.enable_grad():",
            "if True:",
            "test_wrapper.py::test_a_closure_does_what_comes_before_the_step",
        ),
        (
            "closure.default is inspect",
            "False and closure.default is inspect",
            "test_any_optimizer.py::test_optimizers_that_cannot_are_refused_in_one_sentence",
        ),
    ],
    "gradsurgery/gse.py": [
        (
            '"_sum": {}, "_is_ready": False}',
            '"_sum": {}}',
            "test_gse_between_steps.py::test_a_copy_asks_for_a_backward_of_its_own",
        ),
        (
            "tasks, total = self._tasks, self._sum\n        self._forget()",
            "tasks, total = self._tasks, self._sum",
            "test_gse_between_steps.py::test_a_second_evaluation_that_fails_leaves_nothing_behind",
        ),
        (
            'else PCGrad(optimizer, reduction="mean")',
            "else PCGrad(optimizer)",
            "test_gse.py::test_both_updates_go_through_one_optimizer",
        ),
        (
            "self.method.step()\n        if",
            "if",
            "test_gse.py::test_both_updates_go_through_one_optimizer",
        ),
        (
            "self.second_update = second_update",
            'self.second_update = "reuse"',
            "test_gse.py::test_reuse_evaluates_each_task_once_and_recompute_twice",
        ),
        (
            "self.second_update = second_update",
            'self.second_update = "recompute"',
            "test_gse.py::test_reuse_evaluates_each_task_once_and_recompute_twice",
        ),
        (
            "self._tasks.extend((name",
            "self._tasks = list((name",
            "test_gse.py::test_accumulated_micro_batches_are_in_both_updates",
        ),
        (
            "if self._is_ready:  #",
            "if False:  #",
            "test_amp.py::test_a_skipped_step_leaves_nothing_for_the_next",
        ),
        (
            "            self.scaler.unscale_(inner)  #",
            "            pass  #",
            "test_amp.py::test_a_scale_that_is_a_power_of_two_changes_nothing",  # clips before it unscales
        ),
        (
            "self.scaler.step(inner)",
            "inner.step()",
            "test_amp.py::test_each_of_gses_updates_is_skipped_where_its_gradient_is_not_finite",
        ),
        (
            "                with autocast():\n                    differentiate",
            "                if True:\n                    differentiate",
            "test_amp.py::test_the_second_gradient_is_evaluated_under_the_autocast_of_the_first",
        ),
        (
            "torch.clear_autocast_cache()  #",
            "pass  #",
            "test_amp.py::test_the_second_gradient_is_evaluated_under_the_autocast_of_the_first",
        ),
    ],
    "gradsurgery/breakdown.py": [
        (
            "names.setdefault(member, name)",
            "names[member] = OTHER",
            "test_breakdown.py::test_each_part_is_of_its_parameters_and_all_add_up",
        ),
        (
            "if held.setdefault(parameter, name) != name:",
            "if False:",
            "test_breakdown.py::test_what_is_no_breakdown_is_refused",
        ),
    ],
    "gradsurgery/conflicts.py": [
        (  # a part's weights of the first surgery only
            "chosen = [(surgery[name], w)",
            "chosen = [(surgery[name], weights[0])",
            "test_breakdown.py::test_each_part_is_of_its_parameters_and_all_add_up",
        ),
        (
            "self.norms.where(self.norms != 0, 1.0)",
            "self.norms",
            "test_conflicts.py::test_a_report_describes_the_rows",
        ),
        (
            "if math.isfinite(cosine) and",
            "if",
            "test_history.py::test_a_step_that_overflowed_spoils_no_mean",
        ),
        (
            " and zero.isdisjoint(pair)",
            "",
            "test_history.py::test_a_gradient_that_is_zero_has_no_cosine",
        ),
    ],
    "gradsurgery/history.py": [
        (
            "owner.pairs[_ordered(first, second, known)] = points",
            "owner.pairs[first, second] = points",
            "test_history.py::test_a_history_of_two_spellings_is_read_as_one",
        ),
        (  # the means of neighbours, without what lies between them
            " + apart**2 * self.size * later.size / size",
            "",
            "test_history.py::test_the_summary_is_of_all_cosines_whatever_the_bound",
        ),
        (
            "self.mean + apart * later.size / size",
            "self.mean + apart / 2",
            "test_history.py::test_the_summary_is_of_all_cosines_whatever_the_bound",
        ),
        (  # every second one is forgotten
            "reduce(Point.join, points[k : k + 2])",
            "points[k]",
            "test_history.py::test_the_summary_is_of_all_cosines_whatever_the_bound",
        ),
        (
            "points[-1] = points[-1].join(point)",
            "points.append(point)",
            "test_history.py::test_points_stand_for_equally_many_steps_and_are_never_more_than_the_bound",
        ),
        (
            "if (second, first) in known else (first, second)",
            "if False else (first, second)",
            "test_history.py::test_a_pair_is_one_in_either_order",
        ),
        (
            "{*self.pairs, *(pair for part in self.parts.values() for pair in part.pairs)}",
            "set(self.pairs)",
            "test_history.py::test_a_pair_is_spelled_alike_in_every_part",
        ),
    ],
    "gradsurgery/diagnosis.py": [
        (
            "for i in (a, second[0]) for j in (b, second[1])",
            "for i in (a, second[0]) for j in (a, second[1])",
            "test_diagnosis.py::test_the_intervals_hold_the_truth_as_often_as_they_say",
        ),
        (  # the squares of one batch, noise and all
            "own = [[G[i][j] for G in products]",
            "own = [[G[i][i] for G in products]",
            "test_diagnosis.py::test_the_batches_noise_is_taken_out_of_the_cosine",
        ),
        (
            "stdev(without) * (n - 1) / math.sqrt(n)",
            "stdev(without) / math.sqrt(n)",
            "test_diagnosis.py::test_the_intervals_hold_the_truth_as_often_as_they_say",
        ),
        (
            "1 - (1 - level) / pairs)",
            "level)",
            "test_diagnosis.py::test_the_intervals_of_several_pairs_hold_together",
        ),
        (
            "return math.inf if math.isnan(high) else high",
            "return high",
            "test_diagnosis.py::test_a_pair_that_is_drowned_in_noise_does_not_hide_another_pairs_conflict",
        ),
        (
            "if all(low > -tolerance for low in lows.values()):",
            "if True:",
            "test_diagnosis.py::test_the_verdict",
        ),
        (
            "order(len(gramian), generator)) - 1",
            "order(len(gramian), generator))",
            "test_diagnosis.py::test_the_change_is_what_pcgrad_does_to_the_sum",
        ),
        (
            ", finite=is_finite, hooks=False)",
            ", finite=is_finite)",
            "test_diagnosis.py::test_parameters_that_were_not_given_get_no_gradient",
        ),
        (
            "return gramian[i][i] == gramian[i][j] == gramian[j][j]",
            "return False",
            "test_diagnosis.py::test_a_task_that_draws_no_fresh_batches_is_named",
        ),
        (
            " if length > 0]",
            "]",
            "test_diagnosis.py::test_a_batch_without_an_example_of_a_task_has_no_cosine",
        ),
    ],
    "gradsurgery/intervals.py": [
        (
            "if n < 2 or not math.isfinite(mean):",
            "if n < 2:",
            "test_diagnosis.py::test_gradients_that_add_up_to_zero_leave_the_rest_of_the_diagnosis",
        ),
        (
            "(z / (2 * n)) ** 2",
            "0",
            "test_plots.py::test_nulls_are_told_apart_and_a_rate_of_one_is_not_certain",
        ),
    ],
}
