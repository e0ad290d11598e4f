"""Mutations of smartreg: by file what is there, what takes its place, and who must notice."""

SMARTREG: dict[str, list[tuple[str, ...]]] = {
    "smartreg/perturbation.py": [
        (
            "if mask is not None and mask.numel():",
            "if mask is not None:",
            "test_misuse.py::test_an_empty_batch_has_no_penalty",
        ),
        (
            "else self.noise_std + self.num_steps * self.step_size",
            "else self.noise_std",
            "test_diagnosis.py::test_without_a_ball_random_points_are_as_far_as_the_steps_lead",
        ),
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
            "test_presets.py::test_the_paper_is_algorithm_1",
        ),
        (  # one norm for the batch
            "torch.linalg.vector_norm(t.flatten(1), order, dim=1)",
            "torch.linalg.vector_norm(t, order).expand(len(t))",
            "test_laws.py::test_a_sample_does_not_feel_the_rest_of_its_batch",
        ),
        (
            "gradients = _divide(gradients, norms)",
            "pass",
            "test_perturbation.py::test_a_step_takes_the_direction_of_the_gradient_whatever_its_size",
        ),
        (
            "inputs.keep(gradient(deltas))",
            "gradient(deltas)",
            "test_perturbation.py::test_gradients_at_padded_positions_have_no_influence",
        ),
        (
            "return inputs.keep(draws)",
            "return draws",
            "test_regularizer.py::TestMask::test_padded_positions_stay_where_they_are_and_count_for_nothing",
        ),
        (  # numbers for padding, too
            "draw = draw.reshape(mask.numel(), -1)[rank].reshape(x.shape)",
            "pass",
            "test_laws.py::TestPadding::test_permuting_or_lengthening_it_changes_nothing",
        ),
        (
            "self.epsilon / self.search_radius * delta",
            "delta",
            "test_presets.py::test_vat_is_the_power_iteration_by_finite_differences",
        ),
        (
            "torch.where(norm == 0, delta, edge)",
            "edge",
            "test_perturbation.py::test_a_gradient_of_zero_leaves_the_noise",
        ),
        (  # noise projected before the first step
            "return [n * self.noise_std for n in noise]",
            "return self._project([n * self.noise_std for n in noise])",
            "test_presets.py::test_the_paper_is_algorithm_1",
        ),
        (
            "torch.where(beyond, torch.nextafter(reached, x), reached)",
            "reached",
            "test_perturbation.py::test_x_plus_delta_never_leaves_the_ball",
        ),
    ],
    "smartreg/presets.py": [
        (
            "        divergence=kl,",
            "        divergence=symmetric_kl,",
            "test_presets.py::test_vat_is_the_power_iteration_by_finite_differences",
        ),
        (
            "        detach_clean=True,",
            "        detach_clean=False,",
            "test_presets.py::test_vat_is_the_power_iteration_by_finite_differences",
        ),
        (
            'noise="uniform",',
            'noise="normal",',
            "test_presets.py::test_r3f_is_the_symmetric_kl_at_noise_that_no_ball_holds",
        ),
        (
            'F.softmax(clean.detach(), -1), reduction="sum")',
            'F.softmax(clean, -1), reduction="sum")',
            "test_migration.py::test_the_preset_is_that_package_bit_for_bit",
        ),
    ],
    "smartreg/measurement.py": [
        (
            "    @graphless()\n",
            "    @torch.no_grad()\n",
            "test_graphless.py::test_a_measurement_leaves_no_kept_weight_without_a_graph",
        ),
        (
            "            with inputs.unchanged():\n",
            "            if True:\n",
            "test_unchanged.py::test_a_forward_that_writes_to_its_embeddings_is_refused[False-diagnose]",
        ),
        (
            "RNGState.capture(generator)",
            "RNGState.capture()",
            "test_laws.py::TestRandomness::test_diagnosis_leaves_the_generator_as_it_was",
        ),
    ],
    "smartreg/inputs.py": [
        (
            "if length < count * spacing:",
            "if length < spacing:",
            "test_misuse.py::TestSpacing::test_the_radius_of_the_search_over_all_coordinates",
        ),
    ],
    "smartreg/divergences.py": [
        (
            "if mask.is_floating_point() and not bool(((mask == 0) | (mask == 1)).all()):",
            "if False:",
            "test_divergences.py::test_a_mask_of_other_numbers_than_0_and_1_is_refused",
        ),
        (
            "    _check_mask(mask, values)\n",
            "",
            "test_divergences.py::test_a_mask_of_the_logits_shape_is_refused_where_the_classes_are_one_position",
        ),
        (
            "perturbed / temperature, clean / temperature",
            "perturbed / temperature, clean",
            "test_divergences.py::test_a_temperature_divides_the_logits_and_nothing_else",
        ),
        (
            "    _check_shapes(perturbed, clean)\n    value",
            "    value",
            "test_misuse.py::test_outputs_that_differ_between_calls",
        ),
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
            "            with inputs.unchanged():\n",
            "            if True:\n",
            "test_unchanged.py::test_a_forward_that_writes_to_its_embeddings_is_refused[False-penalize]",
        ),
        (
            "if (\n            self._is_below_rounding",
            "if False and (\n            self._is_below_rounding",
            "test_state.py::TestPrecision::test_an_autocast_inside_the_forward_is_warned_of",
        ),
        (
            "self.divergence if self.search_divergence is None else self.search_divergence",
            "self.divergence",
            "test_migration.py::test_every_argument_of_the_package_has_its_option",
        ),
        (
            "and not has_graph(clean):",
            "and False:",
            "test_misuse.py::TestModes::test_outputs_without_a_graph_would_halve_the_gradient",
        ),
        (
            "before.is_present()",
            "False",
            "test_misuse.py::TestModes::test_r_drop_without_dropout_would_be_zero",
        ),
        (
            "if len(gradients) < len(leaves):",
            "if not gradients:",
            "test_misuse.py::test_a_forward_that_does_not_use_its_embeddings",
        ),
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
            "with replaying(rng):\n            perturbed",
            "if True:\n            perturbed",
            "test_state.py::TestDropout",
        ),
        (
            "perturbed = forward.again(",
            "perturbed = forward.function(",
            "test_state.py::TestState::test_gradients_flags_and_buffers_are_as_they_were",
        ),
        (
            "with torch.enable_grad(), replaying(rng):",
            "with torch.enable_grad():",
            "test_state.py::TestDropout::test_every_forward_of_shared_dropout_draws_the_same_masks",
        ),
        (
            "torch.autograd.grad(value, leaves, allow_unused=True)",
            "(value.backward(), [leaf.grad for leaf in leaves])[1]",
            "test_state.py::TestState::test_gradients_flags_and_buffers_are_as_they_were",
        ),
    ],
    "smartreg/rng.py": [
        (
            "generator.set_state(state)",
            "pass",
            "test_laws.py::TestRandomness::test_diagnosis_leaves_the_generator_as_it_was",
        ),
        ("after.restore()", "pass", "test_rng.py::test_a_replay_repeats_and_leaves_no_trace"),
    ],
}
