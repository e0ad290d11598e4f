"""Mutations of gradsurgery and smartreg: by file what is there, what takes its place, and who must notice."""

LIBRARIES: dict[str, list[tuple[str, ...]]] = {
    "gradsurgery/methods.py": [
        (
            "products.clamp(max=0)",
            "products",
            "test_methods.py::test_without_conflict_the_result_is_exactly_the_sum",
        ),
        (  # an adjusted gradient where Algorithm 1 takes the original
            "(C * gramian[j]).sum(1)",
            "(C * (C @ gramian)[j]).sum(1)",
            "test_methods.py::test_the_gramian_form_is_algorithm_1",
        ),
        (
            "products.clamp(max=0) / squares[j])",
            "products.clamp(max=0) / (squares[j] + 1e-8))",
            "test_faults.py::test_2_the_scale_does_not_matter_in_float32",
        ),
        (
            "torch.where(squares[j] == 0, 0.0, products.clamp(max=0) / squares[j])",
            "products.clamp(max=0) / squares[j]",
            "test_faults.py::test_6_a_zero_gradient_is_not_divided_by",
        ),
        (  # one order for all tasks
            "torch.rand(tasks, max(tasks - 1, 0), generator=generator).argsort(dim=1)",
            "torch.rand(1, max(tasks - 1, 0), generator=generator).argsort(dim=1).expand(tasks, -1)",
            "test_methods.py::test_orders_are_uniform_and_drawn_anew_for_each_task",
        ),
        (
            ", generator=generator)",
            ")",
            "test_methods.py::test_the_order_comes_from_the_generator_alone",
        ),
    ],
    "gradsurgery/vectors.py": [
        (
            "if not all(_is_safe(squares[t], part) for t, part in parts.items()):",
            "if False:",
            "test_faults.py::test_2_the_scale_does_not_matter_in_float32",
        ),
        (
            "max(map(abs, factors)) > _LARGEST",
            "False",
            "test_vectors.py::test_a_weight_beyond_float32_meets_its_tiny_gradient",
        ),
    ],
    "gradsurgery/optimizer.py": [
        (
            "self.weights(gramians[-1]) * share",
            "self.weights(gramians[-1])",
            "test_faults.py::test_1_sum_is_the_sum_and_mean_the_mean",
        ),
        (
            "if share != 1.0:",
            "if False:",
            "test_faults.py::test_3_the_mean_divides_by_the_number_of_tasks_whoever_reaches_a_parameter",
        ),
        (
            'if count == 1 and self.scope == "shared"',
            "if False",
            "test_faults.py::test_4_heads_do_not_enter_the_inner_products",
        ),
        (
            'if count == 1 and self.scope == "shared"',
            "if count == 1",
            "test_optimizer.py::test_scope_and_reduction_on_a_model_with_heads",
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
        (
            "self._gradients.average(parameters, self.process_group)",
            "pass",
            "test_distributed.py::test_ranks_train_as_one_process_on_the_joined_batch[replicas callables]",
        ),
    ],
    "gradsurgery/gradients.py": [
        (  # reach by value
            "p in row for row in self.rows.values())) for",
            "p in row and bool(row[p].any()) for row in self.rows.values())) for",
            "test_faults.py::test_5_a_zero_gradient_is_still_one_of_a_shared_parameter",
        ),
        (
            "held[parameter].add_(gradient)",
            "held[parameter] = gradient",
            "test_tasks.py::test_accumulated_micro_batches_equal_one_big_batch",
        ),
        (
            "elif _occupy(occupied, local):",
            "elif False:",
            "test_gradients.py::test_overlapping_memory_is_copied_within_a_row_and_between_rows",
            "test_gradients.py::test_one_gradient_tensor_in_all_tasks_is_not_written_before_it_is_read",
        ),
        (
            "if not _same_layout(local, model):",
            "if False:",
            "test_gradients.py::test_rows_in_different_memory_layouts",
        ),
        (
            "total[parameter] = gradient.clone()",
            "total[parameter] = gradient",
            "test_gse.py::test_both_updates_go_through_one_optimizer",
        ),
    ],
    "gradsurgery/gse.py": [
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
            "self._tasks.extend(tasks.items())",
            "self._tasks = list(tasks.items())",
            "test_gse.py::test_accumulated_micro_batches_are_in_both_updates",
        ),
    ],
    "gradsurgery/distributed.py": [
        (
            "message.div_(ranks(group))",
            "message",
            "test_distributed.py::test_ranks_train_as_one_process_on_the_joined_batch[replicas callables]",
        ),
        (
            "generator.set_state(states[0])",
            "pass",
            "test_distributed.py::test_ranks_train_as_one_process_on_the_joined_batch[replicas callables]",
        ),
    ],
    "smartreg/perturbation.py": [
        (  # σ taken for a variance
            "* self.noise_std",
            "* self.noise_std**0.5",
            "test_perturbation.py::test_the_noise_has_the_standard_deviation_it_is_given",
        ),
        (
            "deltas = self._project(deltas)",
            "pass",
            "test_perturbation.py::test_noise_and_steps_that_would_end_outside_end_on_the_edge",
        ),
        (
            "self._project([d + self.step_size * g for d, g in zip(deltas, gradients, strict=True)])",
            "[d + self.step_size * g for d, g in zip(deltas, gradients, strict=True)]",
            "test_perturbation.py::test_x_plus_delta_never_leaves_the_ball",
        ),
        (  # one norm for the batch
            "torch.linalg.vector_norm(t.flatten(1), order, dim=1)",
            "torch.linalg.vector_norm(t, order).expand(len(t))",
            "test_regularizer.py::test_a_sample_does_not_feel_the_rest_of_its_batch",
        ),
        (
            'gradients = _divide(gradients, self._norms(gradients, "linf"))',
            "pass",
            "test_perturbation.py::test_a_step_takes_the_direction_of_the_gradient_whatever_its_size",
        ),
        (
            "inputs.keep(gradient(deltas))",
            "gradient(deltas)",
            "test_perturbation.py::test_gradients_at_padded_positions_have_no_influence",
        ),
        (
            "deltas = inputs.keep([self._noise(x) for x in inputs.tensors])",
            "deltas = [self._noise(x) for x in inputs.tensors]",
            "test_regularizer.py::TestMask::test_padded_positions_stay_where_they_are_and_count_for_nothing",
        ),
        (
            "torch.where(beyond, torch.nextafter(reached, x), reached)",
            "reached",
            "test_perturbation.py::test_x_plus_delta_never_leaves_the_ball",
        ),
    ],
    "smartreg/divergences.py": [
        (
            "(log_p.exp() + log_q.exp())",
            "log_p.exp()",
            "test_divergences.py::test_every_divergence_is_the_batch_mean_of_its_formula",
        ),
        (
            "_kl(_log_softmax(clean), _log_softmax(perturbed))",
            "_kl(_log_softmax(perturbed), _log_softmax(clean))",
            "test_divergences.py::test_every_divergence_is_the_batch_mean_of_its_formula",
        ),
        (
            "(_kl(log_p, log_m) + _kl(log_q, log_m)) / 2",
            "_kl(log_p, log_m) + _kl(log_q, log_m)",
            "test_divergences.py::test_jensen_shannon_is_at_most_log_2",
        ),
        (
            "b.sigmoid() * (-a).sigmoid()",
            "a.sigmoid() * (-a).sigmoid()",
            "test_divergences.py::test_every_divergence_is_the_batch_mean_of_its_formula",
        ),
        (
            "(perturbed - clean).square()",
            "(perturbed - clean).abs()",
            "test_divergences.py::test_every_divergence_is_the_batch_mean_of_its_formula",
        ),
        (
            "(clean.detach() if detach_clean else clean)",
            "clean.detach()",
            "test_divergences.py::test_gradients_reach_both_branches",
        ),
        (
            "values.sum() / count.clamp(min=1)",
            "values.mean()",
            "test_divergences.py::test_a_mask_leaves_the_mean_over_the_rows_it_keeps",
        ),
    ],
    "smartreg/regularizer.py": [
        (
            "clean = detach(clean) if self.detach_clean else clean",
            "clean = detach(clean)",
            "test_regularizer.py::TestStructure::test_gradients_reach_both_of_a_tuple_and_both_branches",
        ),
        (
            "clean = detach(clean) if self.detach_clean else clean",
            "",
            "test_regularizer.py::TestStructure::test_detach_clean_leaves_the_perturbed_branch",
        ),
        (
            "with preserved_buffers(), _replay(rng):",
            "with preserved_buffers():",
            "test_regularizer.py::TestDropout",
        ),
        (
            "with preserved_buffers(), _replay(rng):",
            "with _replay(rng):",
            "test_regularizer.py::TestState::test_gradients_flags_and_buffers_are_as_they_were",
        ),
        (
            "with torch.enable_grad(), _replay(rng):",
            "with torch.enable_grad():",
            "test_regularizer.py::TestDropout::test_every_forward_of_shared_dropout_draws_the_same_masks",
        ),
        (
            "torch.autograd.grad(value, leaves, allow_unused=True) if",
            "(value.backward(), [leaf.grad for leaf in leaves])[1] if",
            "test_regularizer.py::TestState::test_gradients_flags_and_buffers_are_as_they_were",
        ),
    ],
    "smartreg/rng.py": [
        ("after.restore()", "pass", "test_rng.py::test_a_replay_repeats_and_leaves_no_trace"),
    ],
    "smartreg/backward.py": [
        (
            "with before.replay():",
            "if True:",
            "test_backward.py::test_it_adds_the_gradients_of_the_joint_loss[dtype0-1e-06-False-one]",
        ),
        (
            "[(output, leaf.grad) for output, leaf in pairs if leaf.grad is not None]",
            "[]",
            "test_backward.py::test_it_adds_the_gradients_of_the_joint_loss[dtype0-1e-06-False-one]",
        ),
        (
            "if self.detach_clean:",
            "if True:",
            "test_backward.py::test_it_adds_the_gradients_of_the_joint_loss[dtype0-1e-06-False-one]",
        ),
    ],
}
