"""Wrong versions of what keeps the ranks alike: by file, what is there, what is put there, the tests."""

_JOINED = "test_distributed.py::test_ranks_train_as_one_process_on_the_joined_batch[PCGrad-2]"
_REFUSED = "test_replicas.py::test_what_differs_between_ranks_is_refused_on_each"
_BRANCHES = "test_distributed.py::test_a_parameter_reached_on_one_rank_only_or_no_longer"

DISTRIBUTED = {
    "gradsurgery/replicas.py": [
        ("distributed.share_generator(generator, self._group)", "pass", _JOINED),
        ("self._means.begin([", "list([", _JOINED),
        ("bytes(generator.get_state().tolist())", "None", _REFUSED),
        (
            "self._check_every > 0 and self._backwards % self._check_every == 0",
            "False",
            "test_replicas.py::test_a_drift_is_told_at_the_interval",
        ),
        (
            "if is_due or not replicated:",
            "if is_due:",
            "test_replicas.py::test_what_differs_between_ranks_of_shards_is_refused_on_each_at_any_backward",
        ),
        (
            "return not somewhere_not",
            "return own",
            "test_ddp.py::test_a_loss_that_is_not_finite_on_one_rank_is_refused_on_all",
        ),
        ("row.pop(parameter, None)", "pass", _BRANCHES),
        ("[r and not s for r, s in", "[False for r, s in", _BRANCHES),
        (
            "if len(known) == len(self._parameters):",
            "if False:",
            "test_replicas.py::test_a_row_is_under_way_while_the_next_task_runs_and_the_order_takes_no_message",
        ),
    ],
    "gradsurgery/ddp.py": [
        (
            "if not distributed.is_on():\n        yield",
            "if distributed.ranks(None) == 1:\n        yield",
            "test_ddp.py::test_a_single_rank_trains_as_without_ddp",
        ),
        (
            "        module.require_forward_param_sync |= synchronized[module]\n",
            "",
            "test_ddp.py::test_buffers_are_broadcast_before_the_forwards_of_callables_as_of_losses",
        ),
        (
            "module.require_forward_param_sync |= synchronized[module]",
            "module.require_forward_param_sync = True",
            "test_ddp.py::test_nothing_is_broadcast_inside_no_sync",
        ),
        (
            "            module.require_forward_param_sync |= flag\n",
            "",
            "test_ddp.py::test_buffers_are_broadcast_before_the_forwards_of_callables_as_of_losses",
        ),
        (
            "            module.reducer._check_reducer_finalized()",
            "            pass",
            "test_ddp.py::test_a_forward_that_waits_for_its_own_backward_is_told_at_once",
        ),
        (
            "(replicas := distributed.members(module.process_group)) != among",
            "(replicas := distributed.members(module.process_group)) is None",
            "test_ddp.py::test_a_group_other_than_the_modules_is_refused",
        ),
        (
            "        _names.append(name)",
            "        pass",
            "test_ddp.py::test_a_compiled_module_is_not_compiled_anew_at_each_backward",
        ),
        ("    if module.static_graph:", "    if False:", _REFUSED),
    ],
    "gradsurgery/distributed.py": [
        ("message.div_(share)", "message", _JOINED),
        ("highest == -lowest for", "True for", _REFUSED),
    ],
    "gradsurgery/sharding.py": [
        (
            "if not placement.is_replicate()",
            "if True",
            "test_sharding.py::test_however_the_model_is_sharded_and_the_step_made",
        ),
        (
            "if is_sharded(gradient) and gradient.placements",
            "if False and gradient.placements",
            "test_sharding.py::test_dtensors_replicated_and_sharded_unevenly",
        ),
        (  # torch 2.4's
            'groups = [getattr(state, "_fsdp_param_group", None)]',
            "groups = []",
            "test_sharding.py::test_what_is_held_back_is_refused_where_a_module_has_one_group",
        ),
        (
            "held_back = not (group.reduce_grads and group.all_reduce_grads)",
            "held_back = False",
            "test_sharding.py::test_what_cannot_be_right_is_refused_on_each_rank",
        ),
        (
            "        return ranks\n",
            "        return 1\n",
            "test_sharding.py::test_however_the_model_is_sharded_and_the_step_made",
        ),
    ],
    "gradsurgery/tasks.py": [
        (
            "            _refuse_backward_inside(name, parameters)\n",
            "",
            "test_ddp.py::test_a_loss_that_back_propagates_by_itself_is_refused_and_its_callable_is_right",
        ),
    ],
    "gradsurgery/optimizer.py": [
        (
            "hooks = not distributed.is_on() or",
            "hooks = distributed.ranks(self.process_group) == 1 or",
            "test_ddp.py::test_a_single_rank_trains_as_without_ddp",
        ),
    ],
    "gradsurgery/gradients.py": [
        (
            "iter(distributed.add_up(shares, group))",
            "iter([distributed.add_up([s], group)[0] for s in shares])",
            "test_sharding.py::test_one_message_of_T_by_T_numbers_adds_up_the_products",
        ),
    ],
}
