"""Mutations of smartreg's proximal point and diagnosis, as in mutations_of_smartreg."""

PROXIMAL: dict[str, list[tuple[str, ...]]] = {
    "smartreg/proximal.py": [
        (
            "if not (old.is_floating_point() or old.is_complex()):",
            "if False:",
            "test_proximal.py::test_parameters_of_integers_are_copied",
        ),
        (
            "if any(old is None or new is None or old.shape != new.shape for old, new in pairs):",
            "if any(old is None or new is None for old, new in pairs):",
            "test_proximal.py::test_other_parameters_than_the_teachers_are_refused_before_any_is_written",
        ),
        (
            "part._buffers[name] = self._copied(value)",
            "pass",
            "test_proximal.py::test_buffers_follow_in_any_shape_and_with_what_is_beside_them",
        ),
        (
            "vars(part)[name] = self._copied(value)",
            "pass",
            "test_proximal.py::test_buffers_follow_in_any_shape_and_with_what_is_beside_them",
        ),
        (
            "vars(part)[name] = self._copied(value)",
            "vars(part)[name] = value",
            "test_proximal.py::test_buffers_follow_in_any_shape_and_with_what_is_beside_them",
        ),
        (
            "old.lerp_(new.to(old), 1 - self.momentum)",
            "old.lerp_(new.to(old), self.momentum)",
            "test_proximal.py::test_the_teacher_is_the_moving_average_of_the_parameters",
        ),
        (
            "round_stochastically(moved, old.dtype, generators[old.device])",
            "moved",
            "test_proximal.py::TestHalfPrecision::test_the_teacher_goes_where_that_in_float32_goes",
        ),
        (
            ".manual_seed(SEED + self.updates)",
            ".manual_seed(SEED)",
            "test_proximal.py::TestHalfPrecision::test_every_update_draws_other_numbers",
        ),
        (  # where the student's weights were drawn from torch.manual_seed(0)
            ".manual_seed(SEED + self.updates)",
            ".manual_seed(self.updates)",
            "test_proximal.py::TestHalfPrecision::test_every_update_draws_other_numbers",
        ),
        (
            "self.momentum, self.updates = state",
            "_, self.updates = state",
            "test_proximal.py::TestHalfPrecision::test_it_resumes_to_the_bit_and_moves_no_generator",
        ),
        (
            'int(state["updates"])',
            "0",
            "test_proximal.py::TestHalfPrecision::test_it_resumes_to_the_bit_and_moves_no_generator",
        ),
        (
            "held.copy_(value)",
            "pass",
            "test_proximal.py::test_buffers_follow_and_the_state_resumes",
        ),
        (
            "self.teacher.eval()\n        return self",
            "return self",
            "test_proximal.py::test_the_teacher_has_no_dropout_in_either_mode",
        ),
    ],
    "smartreg/rounding.py": [
        (
            "< scaled - low",
            "< 0.5",
            "test_rounding.py::test_it_is_one_of_two_neighbours_and_right_on_the_average",
        ),
        (
            ".clamp_(min=HALF[dtype])",
            "",
            "test_rounding.py::test_subnormal_numbers_of_float16_have_their_spacing",
        ),
    ],
    "smartreg/diagnosis.py": [
        (
            "target=terms.dropout)",
            "target=2 * terms.dropout)",
            "test_diagnosis.py::TestAdvice::test_beside_noise_of_known_size_it_is_the_closed_form",
        ),
        (
            "if len(seen) == 1 and middle > epsilon:",
            "if False:",
            "test_diagnosis.py::TestAdvice::test_where_r_grows_faster_than_expected_it_is_still_the_smallest",
        ),
        (
            "{weight * TARGET / share:.2g}",
            "{weight / share:.2g}",
            "test_diagnosis.py::TestAdvice::test_a_penalty_too_strong_gets_another_weight",
        ),
        (
            "return text, aim if smart.perturbation.has_ball and aim and aim.now > 0 else None",
            "return text, aim",
            "test_diagnosis.py::TestAdvice::test_an_epsilon_that_is_no_radius_gets_none",
        ),
    ],
    "smartreg/measurement.py": [
        (
            "        if not found:",
            "        if False:",
            "test_diagnosis.py::test_parameters_that_the_loss_does_not_depend_on",
        ),
        (
            "noise_std=factor * search.noise_std",
            "noise_std=search.noise_std",
            "test_diagnosis.py::TestSweep::test_it_is_a_diagnosis_at_each_epsilon_with_the_same_draws",
        ),
        (
            "value(middle) >= target",
            "value(middle) < target",
            "test_diagnosis.py::test_calibration_finds_the_epsilon_of_the_target",
        ),
        (
            "        finally:\n            self.rng.restore()",
            "        finally:\n            pass",
            "test_diagnosis.py::test_nothing_is_left_behind",
        ),
        (
            "                with rng.replay():",
            "                if True:",
            "test_diagnosis.py::test_dropout_is_measured_apart_from_the_perturbation",
        ),
    ],
}
