"""Mutations of what runs on ranks: by file what is there, what takes its place, and who must notice."""

_PACKAGE = "examples/minbert_multitask"

RANKS: dict[str, list[tuple[str, ...]]] = {
    f"{_PACKAGE}/shares.py": [
        (  # a mean of means, whatever their sizes
            "len(mine) * world / self._size",
            "1.0",
            "test_shares.py::test_the_shares_are_the_batch",
        ),
        (  # every rank keeps what is drawn for the first
            "sides[:, self._rows.start : self._rows.stop]",
            "sides[:, : len(self._rows)]",
            "test_shares.py::test_attention_is_torchs_with_the_masks_that_torch_draws",
        ),
        (  # noise of the rank's own
            "            torch.Tensor.normal_: self._normal_,\n",
            "",
            "test_shares.py::test_ranks_train_what_one_process_trains",
        ),
    ],
    f"{_PACKAGE}/ranks.py": [
        (
            "all_ranks[index % world()][index // world()]",
            "all_ranks[index * world() // total][index % len(mine)]",
            "test_shares.py::test_every_rank_has_the_predictions_of_all",
        ),
        (  # the store that does not answer is the first rank's
            "if notes else {0} - {rank()}",
            "if notes else set(range(world()))",
            "test_lost_ranks.py::test_the_others_name_the_rank_that_has_ended",
        ),
        (  # a rank that stops keeps its connections, and who waits for it alone is called silent
            "        traceback.clear_frames(error.__traceback__)",
            "        pass",
            "test_lost_ranks.py::test_the_others_name_the_rank_that_has_ended",
        ),
        (  # the first rank ends, and the store with it, before the others have read what it says
            '            _look_for(store, "read", set(notes), {}, seconds=_GRACE)',
            "            pass",
            "test_lost_ranks.py::test_the_others_name_the_rank_that_has_ended",
        ),
        (  # who ends without a word is waited for
            '    except SystemExit:\n        _exchange_notes(store, "", seconds=0)',
            "    except SystemExit:\n        pass",
            "test_lost_ranks.py::test_what_the_first_rank_refuses_is_said_by_it_alone_and_at_once",
        ),
        (  # the first rank, stopping for a reason of its own, lets nobody read it
            "    if keeps_it:\n        seconds = _GRACE\n",
            "",
            "test_lost_ranks.py::test_the_others_name_the_rank_that_has_ended",
        ),
        (
            "    if world() > 1:\n        optimizer.register_step_pre_hook(average)\n",
            "",
            "test_shares.py::test_ranks_train_what_one_process_trains",
        ),
    ],
    f"{_PACKAGE}/updates.py": [
        (  # each rank weighs by its own losses
            "                ranks.mean(total)",
            "                pass",
            "test_shares.py::test_ranks_train_what_one_process_trains",
        ),
    ],
    "smartreg/parallel.py": [
        (
            '("require_backward_grad_sync", "require_forward_param_sync")',
            '("require_backward_grad_sync",)',
            "test_parallel.py::test_buffers_are_broadcast_before_the_forward_that_moves_them",
        ),
        (
            "if not is_replicated and callable",
            "if callable",
            "test_parallel.py::test_buffers_are_broadcast_before_the_forward_that_moves_them",
        ),
        (
            "module.require_backward_grad_sync = False",
            "pass",
            "test_parallel.py::test_ranks_get_what_one_process_gets_and_exchange_gradients_once_a_step",
        ),
        (
            "module.set_requires_gradient_sync(False, recurse=False)",
            "pass",
            "test_parallel.py::test_ranks_get_what_one_process_gets_and_exchange_gradients_once_a_step",
        ),
    ],
}
