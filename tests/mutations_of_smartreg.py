"""Mutations of smartreg: by file what is there, what takes its place, and who must notice."""

SMARTREG: dict[str, list[tuple[str, ...]]] = {
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
            "with preserved_buffers(forward), _replay(rng):",
            "with preserved_buffers(forward):",
            "test_regularizer.py::TestDropout",
        ),
        (
            "with preserved_buffers(forward), _replay(rng):",
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
}
