"""Mutations of gradsurgery's methods: by file what is there, what takes its place, and who must notice."""

METHODS: dict[str, list[tuple[str, ...]]] = {
    "gradsurgery/gramians.py": [
        (
            "kept = host.diagonal() > 0",
            "kept = host.diagonal() >= 0",
            "test_min_norm.py::test_a_task_without_a_gradient_is_left_out",
        ),
        (
            "weights.fill_(torch.nan)",
            "pass",
            "test_gramians.py::test_what_is_not_finite_makes_every_weight_nan",
        ),
        (  # a floor under the lengths
            "host.diagonal()[kept].sqrt()",
            "host.diagonal()[kept].sqrt().clamp(min=1e-8)",
            "test_every_method.py::test_the_weights_do_not_depend_on_the_scale_of_all_gradients[UPGrad]",
        ),
        (  # lengths of any size meet an absolute number
            "solve(cosines.fill_diagonal_(1), lengths / lengths.max())",
            "solve(cosines.fill_diagonal_(1), lengths)",
            "test_gramians.py::test_the_problem_is_of_cosines_and_of_lengths_up_to_one",
        ),
        (
            "kept = values > len(matrix) * max(rounding, EPSILON * float(values[-1]))",
            "kept = values > 0",
            "test_gramians.py::test_factors_have_the_inner_products_of_the_matrix_and_no_more_rows_than_its_rank",
        ),
        (
            "shares.where(shares.abs() > 4 * max(rounding, len(cosines) * EPSILON), 0.0)",
            "shares",
            "test_alignment.py::test_where_gradients_can_only_cancel_there_is_no_update",
        ),
        (  # float32 taken for exact
            "[EPSILON, *(max(_SINGLE, eps**2) for eps in found if eps > EPSILON)]",
            "[EPSILON]",
            "test_rounded_gradients.py::test_float32_gives_what_float64_gives",
            "test_rounded_gradients.py::test_a_projection_is_no_longer_than_the_gradients_and_conflicts_with_none",
        ),
    ],
    "gradsurgery/graphs.py": [
        (
            "if [True, True] in found else 0",
            "",
            "test_compile.py::test_a_head_outside_that_begins_at_zero_is_not_warned_of",
        ),
        (
            "and (count := _zero_filled(rows[first], rows[name]))",
            "and (count := len(rows))",
            "test_compile.py::test_compiled_losses_of_what_is_all_shared_are_not_warned_of",
        ),
        (
            'if len(outputs) < len(getattr(node, "_input_metadata", ()))',
            "if outputs",
            "test_compile.py::test_zeros_that_come_from_elsewhere_are_not_laid_at_the_compilers_door",
        ),
        (
            '"CompiledFunctionBackward": "a compiled forward"',
            "",
            "test_compile.py::test_heads_in_one_compiled_forward_are_warned_of_and_the_trunk_as_scope_is_the_remedy",
        ),
    ],
    "gradsurgery/least_squares.py": [
        (  # what the start has and the minimum has not, kept
            "x, positive = _minimise_within(A, target, x, x > 0)",
            "positive = x > 0",
            "test_least_squares.py::test_another_start_leads_to_the_same_place",
        ),
        (  # the steps that keep x ≥ 0, left out
            "if not blocking.any():",
            "if True:",
            "test_least_squares.py::test_nonnegative_least_squares_meets_the_conditions_of_optimality",
        ),
        (
            "noise = 8 * len(A) * EPSILON *",
            "noise = 1e-6 *",
            "test_least_squares.py::test_nonnegative_least_squares_meets_the_conditions_of_optimality",
        ),
        (
            "return x / sizes",
            "return x",
            "test_least_squares.py::test_nonnegative_least_squares_meets_the_conditions_of_optimality",
        ),
        (  # a bound that is far from its limit has the limits' scale
            "scale = bounds.max()",
            "scale = bounds.abs().max()",
            "test_least_squares.py::test_a_bound_far_below_does_not_drown_one_above",
        ),
        (
            "v = x * scale / gap",
            "v = x * scale",
            "test_least_squares.py::test_least_distance_meets_the_conditions_of_optimality_or_there_is_no_such_point",
        ),
    ],
    "gradsurgery/min_norm.py": [
        (
            "return len(x) * x / x.sum()",
            "return x / x.sum()",
            "test_min_norm.py::test_mgda_is_the_shortest_convex_combination",
        ),
        (
            "units * lengths, row]",
            "units, row]",
            "test_min_norm.py::test_mgda_of_two_is_the_papers_formula",
        ),
        (
            "radius = c * torch.linalg.vector_norm(mean)",
            "radius = c * torch.linalg.vector_norm(gradients.sum(1))",
            "test_min_norm.py::test_cagrad_stays_in_its_ball",
        ),
        (  # no Newton, no bisection: the first bound is taken
            "if distance <= radius * (1 + 1e-13):",
            "if True:",
            "test_min_norm.py::test_cagrad_stays_in_its_ball",
        ),
        (
            "for _ in range(64):",
            "for _ in range(1):",
            "test_min_norm.py::test_cagrad_gives_the_worst_off_most",
        ),
        (
            "_RIDGE**0.5 * torch.eye(",
            "0 * torch.eye(",
            "test_min_norm.py::test_the_weights_of_cagrad_stay_small_where_gradients_nearly_cancel",
        ),
    ],
    "gradsurgery/dual_cone.py": [
        (
            "torch.cat([-vector, root * v])",
            "torch.cat([vector, root * v])",
            "test_dual_cone.py::test_upgrad_conflicts_with_no_task_and_takes_nothing_away",
        ),
        (
            "(lengths @ added) / lengths",
            "added.sum(0)",
            "test_dual_cone.py::test_upgrad_is_the_sum_of_the_projected_gradients",
        ),
        (  # the projection of the unit gradients' sum
            "_added(units, units @ lengths, rounding)",
            "_added(units, units.sum(1), rounding)",
            "test_dual_cone.py::test_dualproj_is_the_projected_sum_of_the_gradients",
        ),
        (  # one step, whose ridge is felt at half a degree
            "_PROXIMAL_STEPS = 3",
            "_PROXIMAL_STEPS = 1",
            "test_rounded_gradients.py::test_an_angle_of_half_a_degree_is_no_rounding_in_float32",
        ),
        (
            "root = rounding**0.5",
            "root = 0.0",
            "test_rounded_gradients.py::test_float32_gives_what_float64_gives",
            "test_rounded_gradients.py::test_a_projection_is_no_longer_than_the_gradients_and_conflicts_with_none",
        ),
    ],
    "gradsurgery/bargaining.py": [
        (
            "if len(self.tasks) == 1:",
            "if False:",
            "test_bargaining.py::test_one_task_keeps_its_gradient_between_two_solutions",
        ),
        (
            "weights.where((gramian.diagonal() != 0).sum() > 1, 1.0)",
            "weights",
            "test_bargaining.py::test_so_it_does_beside_a_task_that_reaches_nothing",
        ),
        (
            "in solved if square}",
            "in solved}",
            "test_bargaining.py::test_a_task_that_was_left_out_of_a_solution_has_it_solved_again",
        ),
        (
            "residual = 1 - b * (C @ b)",
            "residual = 1 - C @ b",
            "test_bargaining.py::test_the_weights_solve_the_papers_equation_up_to_a_factor",
        ),
        (
            "if b.max() > _LARGEST:",
            "if False:",
            "test_bargaining.py::test_opposite_gradients_alone_cancel",
        ),
        (
            "return lengths.square().mean().sqrt() * b / lengths",
            "return b / lengths",
            "test_bargaining.py::test_the_weights_solve_the_papers_equation_up_to_a_factor",
        ),
        (
            "uses % self.update_every == 0 or",
            "not uses or",
            "test_bargaining.py::test_a_solution_is_used_as_often_as_asked_by_name",
        ),
        (
            "or (new and gramian.diagonal()[new].any())",
            "",
            "test_bargaining.py::test_a_solution_is_used_as_often_as_asked_by_name",
        ),
        (
            "if not weights.isfinite().all():",
            "if False:",
            "test_bargaining.py::test_a_step_that_is_not_finite_is_seen_and_not_remembered",
        ),
        (
            'self._solutions, self._uses = state.get("solutions", {}), state.get("uses", {})',
            'self._solutions = state.get("solutions", {})',
            "test_bargaining.py::test_the_last_solution_and_its_age_are_in_the_checkpoint",
        ),
    ],
    "gradsurgery/alignment.py": [
        (
            "alpha = equiangular(cosines, rounding) / lengths",
            "alpha = equiangular(cosines, rounding)",
            "test_alignment.py::test_imtlg_has_one_projection_on_every_gradient_and_weights_that_add_up",
        ),
        (
            "return len(alpha) * alpha / total",
            "return alpha / total",
            "test_alignment.py::test_imtlg_has_one_projection_on_every_gradient_and_weights_that_add_up",
        ),
        (
            "(lengths @ products) / square if",
            "lengths.sum() / square.sqrt() if",
            "test_alignment.py::test_config_has_one_cosine_with_every_gradient_and_the_length_of_the_projections",
        ),
        (
            "(chosen.sqrt() / sigma)",
            "(chosen / squares)",
            "test_alignment.py::test_aligned_gradients_are_orthogonal_and_of_one_length",
        ),
        (
            '"min": squares.min()',
            '"min": squares.max()',
            "test_alignment.py::test_aligned_gradients_are_orthogonal_and_of_one_length[min]",
        ),
        (
            "len(lengths) * EPSILON * sigma[0]",
            "len(lengths) * EPSILON**0.5 * sigma[0]",
            "test_alignment.py::test_a_short_gradient_is_aligned_and_not_lost",
        ),
    ],
    "gradsurgery/fixed.py": [
        (
            "generator=self.generator, dtype=torch.float64",
            "dtype=torch.float64",
            "test_fixed.py::test_random_weights_are_the_papers_from_the_generator_alone",
        ),
        (
            "super().__init__(optimizer, reduction=reduction, **options)",
            "super().__init__(optimizer, **options)",
            "test_fixed.py::test_the_mean_is_of_heads_too",
        ),
    ],
    "gradsurgery/balancing.py": [
        (
            "value = value.to(torch.promote_types(value.dtype, torch.float32))",
            "pass",
            "test_balancing.py::test_the_means_of_long_epochs_of_half_precision_losses_are_exact",
        ),
        (
            "((-s).exp() * loss + s) / 2",
            "((-s).exp() * loss - s) / 2",
            "test_balancing.py::test_uncertainty_weighting_is_that_of_torchjd_in_value_and_in_every_gradient",
        ),
        (
            "mean / self._last[name] for",
            "self._last[name] / mean for",
            "test_balancing.py::test_dynamic_weights_are_those_of_torchjd",
        ),
        (
            "total + value.where(finite, 0.0), count + finite",
            "total + value, count + 1",
            "test_balancing.py::test_losses_that_are_not_finite_enter_no_mean",
        ),
        (
            "value = loss.detach()",
            "value = (loss * self.weights.get(name, 1.0)).detach()",
            "test_balancing.py::test_dynamic_weights_are_those_of_torchjd",
        ),
        (
            '"last": dict(self._last),',
            '"last": {},',
            "test_balancing.py::test_dynamic_weights_resume_from_a_checkpoint_anywhere",
        ),
    ],
}
