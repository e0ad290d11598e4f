"""Mutations of the low-memory backward and of EmbeddingFunction, as :mod:`tests.mutations_of_smartreg`."""

EMBEDDINGS: dict[str, list[tuple[str, ...]]] = {
    "smartreg/losses.py": [
        (
            "with unchanged(tensors(outputs), WRITTEN):",
            "if True:",
            "test_unchanged.py::test_a_loss_that_writes_to_the_outputs_is_refused",
        ),
        (
            "value.numel() != 1 or not value.requires_grad:",
            "value.numel() != 1:",
            "test_misuse.py::test_a_loss_that_is_not_one_number_of_the_outputs",
        ),
    ],
    "smartreg/backward.py": [
        (
            "    check_loss(loss)\n",
            "",
            "test_misuse.py::test_a_loss_that_is_not_one_number_of_the_outputs",
        ),
        (
            "@as_with_a_graph()\n",
            "",
            "test_graphless.py::test_weights_that_parametrizations_keep_get_their_gradient",
        ),
        (  # a filled logit makes any difference small
            "torch.where((error > 0) & sizes.isfinite(), sizes, 0.0).max()",
            "sizes.max()",
            "test_backward.py::test_it_is_refused_too_where_some_logits_are_masked[-10000.0]",
            "test_backward.py::test_it_is_refused_too_where_some_logits_are_masked[-inf]",
        ),
        (
            "(error > 0) & sizes.isfinite()",
            "error > 0",
            "test_backward.py::test_it_is_refused_too_where_another_logit_is_masked",
        ),
        (
            "with graphless(), self._precision(inputs), leaves.unchanged():",
            "with graphless(), self._precision(inputs):",
            "test_unchanged.py::test_a_forward_that_writes_to_its_embeddings_is_refused[False-backward]",
        ),
        (
            "with self._precision(inputs), leaves.unchanged():",
            "with self._precision(inputs):",
            "test_unchanged.py::test_a_forward_that_writes_to_its_embeddings_is_refused[True-backward]",
        ),
        (
            "without_graph(outputs))",
            "detach(outputs))",
            "test_backward.py::test_the_outputs_keep_their_type_and_lose_their_graph",
        ),
        (
            "with before.replay(), self._precision(inputs):",
            "with self._precision(inputs):",
            "test_backward.py::test_it_adds_the_gradients_of_the_joint_loss[dtype0-1e-06-False-one]",
        ),
        (
            "[(o, leaf.grad) for o, leaf in pairs if leaf.grad is not None and o.requires_grad]",
            "[]",
            "test_backward.py::test_it_adds_the_gradients_of_the_joint_loss[dtype0-1e-06-False-one]",
        ),
        (
            "if self.detach_clean:",
            "if True:",
            "test_backward.py::test_it_adds_the_gradients_of_the_joint_loss[dtype0-1e-06-False-one]",
        ),
        (  # a scaler's factor for the task alone
            "accumulate((_scaled(weight * penalty, scale), None))",
            "accumulate((weight * penalty, None))",
            "test_backward.py::test_a_step_with_a_scaler_and_accumulation_is_that_of_the_joint_loss",
        ),
        (
            "with graphless(), self._precision(inputs), leaves.unchanged():",
            "with self._precision(inputs), leaves.unchanged():",
            "test_backward.py::test_the_price_is_one_clean_forward_without_a_graph",
        ),
        (  # the clean forward's graph lives on beside that of the perturbed one
            "graphless(), self._precision(inputs), leaves.unchanged():\n                first = detach(",
            "self._precision(inputs):\n                first = detach(kept := ",
            "test_memory.py::test_smart_and_gse_on_three_tasks_take_the_activations_of_one_forward",
        ),
    ],
    "smartreg/embeddings.py": [
        (
            "return output + self._deltas[index] if index < self.calls else None",
            "return output + self._deltas[0] if index < self.calls else None",
            "test_embeddings.py::test_a_siamese_model_has_a_tuple_of_embeddings",
        ),
        (  # the embedding's parameters leave the graph
            "return output + self._deltas[index]",
            "return output.detach() + self._deltas[index]",
            "test_any_model.py::test_at_its_own_embeddings_it_is_the_model[bert-block]",
        ),
        (
            "            before.restore()\n",
            "            pass\n",
            "test_any_model.py::test_at_its_own_embeddings_it_is_the_model[bert-block]",
        ),
        (  # a forward that raised goes on perturbing
            "self._deltas = None\n        self._expect",
            "self._expect",
            "test_embeddings.py::test_a_failing_forward_leaves_the_model_untouched",
        ),
        (
            "Forward(self.model).again(*args",
            "self.model(*args",
            "test_leftovers.py::test_binding_moves_neither_buffers_nor_the_random_state_when_the_model_raises",
        ),
    ],
    "smartreg/inputs.py": [
        (
            "_named_in(forward) if known is None else known",
            "known or ()",
            "test_inputs.py::test_the_parameters_that_a_function_names_are_looked_at",
        ),
        (
            "values += [*forward.args, *forward.keywords.values()]",
            "pass",
            "test_inputs.py::test_the_parameters_that_a_function_names_are_looked_at",
        ),
        (
            'values += getattr(each, "__dict__", {}).values()',
            "pass",
            "test_inputs.py::test_the_parameters_that_a_function_names_are_looked_at",
        ),
        (
            "values += [function.__globals__.get(name) for name in function.__code__.co_names]",
            "pass",
            "test_inputs.py::test_the_parameters_that_a_function_names_are_looked_at",
        ),
        (
            "suppress(ValueError)",
            "suppress()",
            "test_inputs.py::test_a_function_may_name_what_is_not_there_yet",
        ),
        (
            " or _is_of_16_bits(forward):",
            ":",
            "test_state.py::TestPrecision::test_a_model_in_half_precision_is_called_under_autocast_as_without",
        ),
    ],
    "smartreg/hooks.py": [
        (
            "        del pre_hooks[first]\n",
            "",
            "test_hooks.py::test_a_block_calls_its_own_functions_and_leaves_none_behind",
        ),
        (
            "        _names.append(found)",
            "        pass",
            "test_hooks.py::test_hooks_have_the_same_names_each_time",
            "test_hooks.py::test_a_compiled_function_is_not_compiled_anew_at_each_call",
        ),
    ],
    "smartreg/graphless.py": [
        (
            "torch.no_grad(), as_with_a_graph():",
            "torch.no_grad():",
            "test_graphless.py::test_weights_that_parametrizations_keep_get_their_gradient",
        ),
        (
            "torch.backends.mha.set_fastpath_enabled(False)",
            "pass",
            "test_graphless.py::test_transformer_layers_compute_without_a_graph_what_they_do_with_one",
        ),
        (
            "torch.backends.mha.set_fastpath_enabled(fast)",
            "pass",
            "test_graphless.py::test_transformer_layers_compute_without_a_graph_what_they_do_with_one",
        ),
        (
            "torch.set_autocast_cache_enabled(False)",
            "pass",
            "test_leftovers.py::test_no_weight_is_cast_for_later_by_a_pass_without_a_graph",
        ),
        (
            "torch.set_autocast_cache_enabled(enabled)",
            "pass",
            "test_leftovers.py::test_no_weight_is_cast_for_later_by_a_pass_without_a_graph",
        ),
    ],
    "smartreg/unchanged.py": [
        (
            "None if tensor.is_inference() else tensor._version",
            "tensor._version",
            "test_unchanged.py::test_embeddings_of_inference_mode_are_taken",
        ),
    ],
    "smartreg/forward.py": [
        (
            "if any(is_lazy(buffer) for buffer in module._buffers.values() if buffer is not None):",
            "if False:",
            "test_forward.py::test_buffers_without_a_shape_are_refused_where_the_first_call_must_leave_no_trace",
        ),
        (
            "for module in self._known:\n                    visit",
            "for module in ():\n                    visit",
            "test_any_module.py::test_wrapped_modules[compiled in place-resnet]",
            "test_forward.py::test_buffers_are_as_they_were_and_each_call_begins_with_them[a module]",
        ),
        (
            "_set_attributes(module, self._attributes.get(module, kept[module]))",
            "pass",
            "test_forward.py::test_attributes_beside_buffers_are_as_they_were_too",
        ),
        (
            "if buffers and module not in kept:",
            "if buffers:",
            "test_forward.py::test_a_module_that_is_called_twice_goes_on_with_its_attributes",
        ),
        (
            "                _set_attributes(module, attributes)\n",
            "                pass\n",
            "test_forward.py::test_attributes_beside_buffers_are_as_they_were_too",
        ),
        (
            "        del own[name]",
            "        pass",
            "test_forward.py::test_attributes_beside_buffers_are_as_they_were_too",
        ),
        (
            "key not in self._noted and _is_same(b, copy)",
            "True",
            "test_forward.py::test_a_buffer_that_moves_does_so_once_however_large_it_is_and_however_it_moves",
        ),
        (
            "if _is_large(b) and _is_same(b, copy):",
            "if _is_large(b):",
            "test_forward.py::test_a_buffer_that_moves_does_so_once_however_large_it_is_and_however_it_moves",
        ),
        (
            "a.dtype == b.dtype and ",
            "",
            "test_forward.py::test_a_large_buffer_of_another_type_in_its_place_is_taken",
        ),
        (
            " and not torch._C._functorch.is_functorch_wrapped_tensor(buffer)",
            "",
            "test_forward.py::test_functions_of_transforms",
        ),
        (
            "buffer.layout is torch.strided and ",
            "",
            "test_forward.py::test_a_sparse_buffer_is_taken",
        ),
        (
            "None if _is_large(b) else b.detach().clone()",
            "b.detach().clone()",
            "test_forward.py::test_a_large_buffer_that_stays_is_copied_once",
        ),
        (
            "and version(b) != former",
            "",
            "test_forward.py::test_a_buffer_that_nobody_wrote_to_is_not_written_to",
        ),
        (
            "_copy(self._noted[id(b)][1] if id(b) in self._noted else b)",
            "_copy(b)",
            "test_forward.py::test_a_penalty_compares_outputs_that_began_with_the_same_buffers",
        ),
        (
            "copies[id(b)] = now",
            "pass",
            "test_forward.py::test_a_module_that_is_called_twice_goes_on_from_its_first_call[Momentum]",
        ),
        (
            "self._noted.setdefault(",
            "dict().setdefault(",
            "test_forward.py::test_a_module_that_is_called_twice_goes_on_from_its_first_call[Momentum]",
        ),
        (
            "buffer.clone() if buffer.requires_grad else ",
            "",
            "test_forward.py::test_a_buffer_keeps_its_graph",
        ),
        (
            "self._known:\n                    lend(module)",
            "self._known:\n                    pass",
            "test_forward.py::test_a_checkpoint_that_is_computed_anew_moves_no_buffers",
        ),
        (
            "if not depth:",
            "if False:",
            "test_forward.py::test_buffers_that_are_passed_in_stay_outside_of_the_module",
        ),
        (
            'getattr(forward, "__self__", None)',
            "None",
            "test_forward.py::test_a_bound_methods_module_is_known",
        ),
    ],
}
