"""Mutations of smartreg's proximal point and diagnosis, as in mutations_of_smartreg."""

PROXIMAL: dict[str, list[tuple[str, ...]]] = {
    "smartreg/proximal.py": [
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
            "buffer.copy_(value)",
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
}
