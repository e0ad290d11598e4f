"""Mutations of the example: by file what is there, what takes its place, and who must notice."""

_PACKAGE = "examples/minbert_multitask"

EXAMPLE: dict[str, list[tuple[str, ...]]] = {
    f"{_PACKAGE}/experiments.py": [
        (
            "smart_weight: float = 5.0",
            "smart_weight: float = 1.0",
            "test_experiments.py::test_the_penalty_weighs_five_everywhere",
        ),
    ],
    f"{_PACKAGE}/updates.py": [
        (
            "for loss in losses.values():\n            self.optimizer.zero_grad()",
            "for loss in losses.values():",
            "test_updates.py::test_updates_without_surgery_are_the_plain_ones",
        ),
        (  # one update for all where the baseline makes one a task
            "call]\n            self.optimizer.step()",
            "call]\n        self.optimizer.step()",
            "test_updates.py::test_updates_without_surgery_are_the_plain_ones",
        ),
        (
            'reduction="mean", ',
            "",
            "test_updates.py::test_with_three_tasks_every_step_is_the_plain_one_of_some_order",
        ),
        (
            '"recompute" if update == "gse" else "reuse"',
            '"reuse"',
            "test_updates.py::test_how_often_and_in_what_order_losses_are_evaluated",
        ),
        (
            "if isinstance(self.balance, DWA):\n            self.balance.end_epoch()",
            "pass",
            "test_updates.py::test_dwa_weighs_from_the_third_epoch_on",
        ),
        (
            '        optimizer.add_param_group({"params": list(balance.parameters())})\n',
            "",
            "test_updates.py::test_uncertainty_weighs_each_loss_by_a_trained_parameter",
        ),
        (
            "torch.Generator().manual_seed(seed)",
            "torch.Generator()",
            "test_updates.py::test_the_seed_decides_the_order",
        ),
    ],
    f"{_PACKAGE}/masked_lm.py": [
        (  # padding may be chosen
            "chosen = candidates & (draws < _CHOSEN)",
            "chosen = draws < _CHOSEN",
            "test_masked_lm.py::test_special_tokens_are_never_chosen_and_what_is_not_chosen_stays",
        ),
    ],
    f"{_PACKAGE}/records.py": [
        (
            "if not Record.is_whole(path) and",
            "if False and",
            "test_reproduction.py::test_records_of_other_data_and_broken_ones_are_refused",
        ),
    ],
    f"{_PACKAGE}/reproduction.py": [
        (
            "_check_kept(kept, settings, inputs)\n",
            "pass\n",
            "test_reproduction.py::test_records_that_were_made_otherwise_are_refused_before_the_first_run",
        ),
        (
            "if groups[1:]:",
            "if False:",
            "test_reproduction.py::test_records_of_two_schedules_are_not_judged_together",
        ),
        (
            "if not Record.is_whole(",
            "if not Path.exists(",
            "test_reproduction.py::test_records_of_other_data_and_broken_ones_are_refused",
        ),
    ],
    f"{_PACKAGE}/task_conflicts.py": [
        (
            "and run.row in whole",
            "",
            "test_results_page.py::test_a_seed_weighs_as_much_as_another_and_has_the_same_rows",
        ),
        (
            "if seeds == list(SEEDS) else UNFINISHED",
            "",
            "test_results_page.py::test_many_samples_of_one_seed_decide_nothing",
        ),
    ],
    f"{_PACKAGE}/findings.py": [
        (  # whatever seeds there are
            "[seed for seed in found if seed in SEEDS] or found",
            "found",
            "test_reproduction.py::test_only_the_protocols_seeds_decide",
        ),
        (
            "if finished else UNFINISHED",
            "",
            "test_reproduction.py::test_no_verdict_falls_before_all_seeds_have_run",
        ),
        (  # the luck of the seeds is left out
            "float(each.var(ddof=1)) / count",
            "0.0",
            "test_reproduction.py::test_the_seeds_error_is_part_of_the_interval",
        ),
        (
            "sorted((sign * found.low, sign * found.high))",
            "found.low, found.high",
            "test_reproduction.py::test_verdicts",
        ),
    ],
    f"{_PACKAGE}/packing.py": [
        (
            "mask.flatten().nonzero()",
            "mask.T.flatten().nonzero()",
            "test_packing.py::test_packing_takes_the_real_positions_and_puts_them_back",
        ),
    ],
    f"{_PACKAGE}/heads.py": [
        (
            "(first - second).abs(), first * second",
            "(first - second), first * second",
            "test_heads.py::test_outputs_are_the_formulas",
        ),
        ("(outputs > 0)", "(outputs > 0.5)", "test_heads.py::test_predictions"),
        (
            "alike = labels >= MAX_SIMILARITY / 2",
            "alike = labels > MAX_SIMILARITY / 2",
            "test_heads.py::test_sentences_are_alike_from_two_and_a_half_on",
        ),
        (
            "outputs.clamp(min=0.0)",
            "outputs",
            "test_heads.py::test_losses_and_their_gradients_are_torchs",
        ),
        (
            "(outputs - labels).square().mean()",
            "(outputs - labels).square().sum()",
            "test_heads.py::test_losses_and_their_gradients_are_torchs",
        ),
        (
            "torch.sigmoid(20.0 *",
            "torch.sigmoid(",
            "test_heads.py::test_outputs_are_the_formulas",
        ),
        (
            "staticmethod(bernoulli_symmetric_kl)",
            "staticmethod(squared_error)",
            "test_heads.py::test_every_head_has_the_divergence_of_its_loss",
        ),
    ],
    f"{_PACKAGE}/regularization.py": [
        (
            "point.embeddings, mask=point.masks)",
            "point.embeddings, mask=None)",
            "test_regularization.py::test_real_positions_are_perturbed_and_padding_is_not",
        ),
        (
            "FIRST_MOMENTUM if progress <= FIRST_UPDATES else MOMENTUM",
            "FIRST_MOMENTUM",
            "test_regularization.py::test_the_teacher_follows_with_the_papers_momentum",
        ),
        (
            "math.exp(math.fsum(map(math.log, found)) / len(found))",
            "math.fsum(found) / len(found)",
            "test_regularization.py::test_epsilon_is_the_geometric_mean_over_batches",
        ),
        (
            'self.proximal.load_state_dict(state["proximal"])',
            "pass",
            "test_train.py::test_from_any_checkpoint_on_the_end_is_the_same_to_the_last_bit[smart-gse-bregman]",
        ),
        (
            'self.epsilons = dict(state["epsilons"])',
            "pass",
            "test_train.py::test_from_any_checkpoint_on_the_end_is_the_same_to_the_last_bit[smart-calibrated]",
        ),
    ],
    f"{_PACKAGE}/data.py": [
        (
            "if form.drop_unlabelled and not row[form.label]:",
            "if False:",
            "test_data.py::test_empty_labels_of_qqp_are_dropped_with_one_warning_that_counts",
        ),
        (
            "if form.drop_unlabelled and not row[form.label]:",
            "if not row[form.label]:",
            "test_data.py::test_a_broken_file_is_refused_with_its_name_and_line",
        ),
    ],
    f"{_PACKAGE}/tokenizer.py": [
        (
            "length = max(map(len, rows))",
            "length = self.max_length",
            "test_tokenizer.py::test_rows_are_padded_to_the_longest",
        ),
        (
            "attention_mask[i, : len(row)] = 1",
            "attention_mask[i] = 1",
            "test_tokenizer.py::test_rows_are_padded_to_the_longest",
        ),
    ],
    f"{_PACKAGE}/batches.py": [
        (  # the second sentence's [CLS] stays
            "torch.cat([a, b[1:]])",
            "torch.cat([a, b])",
            "test_model.py::test_joint_pairs_are_encoded_as_one_row_whose_second_sentence_has_token_type_1",
        ),
        (
            "{self.task} {epoch} {a_pass}",
            "{self.task} {a_pass}",
            "test_batches.py::test_passes_epochs_tasks_and_seeds_have_different_orders",
        ),
    ],
    f"{_PACKAGE}/bert.py": [
        (
            "attn_mask=mask, ",
            "",
            "test_bert.py::test_a_row_does_not_depend_on_its_batch",
        ),
    ],
    f"{_PACKAGE}/model.py": [
        (
            "F.pad(mask, (0, length - mask.shape[1]))",
            "F.pad(mask, (0, length - mask.shape[1]), value=1)",
            "test_model.py::test_outputs_are_the_heads_of_each_sentence_encoded_alone",
        ),
        (
            "/ weight.sum(dim=1)",
            "/ hidden.shape[1]",
            "test_model.py::test_outputs_are_the_heads_of_each_sentence_encoded_alone",
        ),
    ],
    f"{_PACKAGE}/train.py": [
        (
            "settings.iterations * experiment.epoch_multiple",
            "settings.iterations",
            "test_train.py::test_three_times_the_iterations",
        ),
        (
            'max(self.epochs, key=lambda epoch: epoch.dev["overall"])',
            "self.epochs[-1]",
            "test_train.py::test_the_best_epoch_is_the_highest_overall_on_dev_and_its_weights_are_kept",
        ),
        (
            "if self.best_epoch() == self.epoch:",
            "if True:",
            "test_train.py::test_the_best_epoch_is_the_highest_overall_on_dev_and_its_weights_are_kept",
        ),
        (
            'restore_rng_state(state["generators"])',
            "pass",
            "test_train.py::test_from_any_checkpoint_on_the_end_is_the_same_to_the_last_bit[multitask]",
        ),
        (
            'self.updater.load_state_dict(state["updater"])',
            "pass",
            "test_train.py::test_from_any_checkpoint_on_the_end_is_the_same_to_the_last_bit[multitask]",
        ),
    ],
    f"{_PACKAGE}/checkpoint.py": [
        (
            'torch.set_rng_state(state["cpu"])',
            "pass",
            "test_checkpoint.py::test_generators_go_on_where_they_were_also_through_a_file",
        ),
    ],
    f"{_PACKAGE}/files.py": [
        (
            "beside.replace(path)",
            "path.write_bytes(beside.read_bytes())",
            "test_files.py::test_a_failed_write_names_the_file_leaves_the_former_and_no_litter",
        ),
        (
            "with beside.open",
            "path.unlink(missing_ok=True)\n        with beside.open",
            "test_files.py::test_an_interrupted_write_leaves_the_former_file",
        ),
        (
            "os.fsync(file.fileno())",
            "pass",
            "test_files.py::test_the_former_file_stays_in_place_until_the_new_one_is_on_the_disk",
        ),
    ],
    f"{_PACKAGE}/evaluate.py": [
        (
            "(sst + qqp + (sts + 1) / 2) / 3",
            "(sst + qqp + sts) / 3",
            "test_evaluate.py::test_overall_is_the_papers",
        ),
        (
            "np.where(varies, centred / np.where(varies, deviation, 1.0), 0.0)",
            "centred / deviation",
            "test_evaluate.py::test_constant_and_non_finite_predictions_are_flagged_and_never_nan",
        ),
        (
            "keepdims=True) > _ROUNDING",
            "keepdims=True) > 0",
            "test_evaluate.py::test_constant_and_non_finite_predictions_are_flagged_and_never_nan",
        ),
        (
            "[2.5, 97.5]",
            "[5.0, 95.0]",
            "test_evaluate.py::test_intervals_are_percentiles_of_resampled_scores",
        ),
        (
            "gold[chosen]",
            "gold[np.roll(chosen, 1)]",
            "test_evaluate.py::test_intervals_are_percentiles_of_resampled_scores",
        ),
        (
            "[seed, TASKS.index(task)]",
            "[seed]",
            "test_evaluate.py::test_tasks_are_resampled_independently",
        ),
    ],
    f"{_PACKAGE}/prediction_files.py": [
        (
            "Predicted_Similiary",
            "Predicted_Similarity",
            "test_prediction_files.py::test_the_files_are_the_handouts_to_the_byte",
        ),
        (
            '"{name} , {value} \\n"',
            '"{name}, {value}\\n"',
            "test_prediction_files.py::test_the_files_are_the_handouts_to_the_byte",
        ),
    ],
}
