"""What PyTorch hides of a model: its state, wrappers, processes, and norms of its tensors."""

from sj_shortcut.torch_model.backward import NO_BACKWARD, backward_task, in_backward
from sj_shortcut.torch_model.checks import did_you_mean, require_module
from sj_shortcut.torch_model.ending import ending_of
from sj_shortcut.torch_model.later import Later
from sj_shortcut.torch_model.modes import modes_after_interrupts
from sj_shortcut.torch_model.norms import joint_norm, l2_norm, wide_dtype
from sj_shortcut.torch_model.outputs import first_tensor, map_tensors, tensors_in
from sj_shortcut.torch_model.plain import is_plain
from sj_shortcut.torch_model.preserve import preserved, untouched_rng
from sj_shortcut.torch_model.ranks import gather_objects, is_distributed, rank, world_size
from sj_shortcut.torch_model.recomputing import without_recomputing
from sj_shortcut.torch_model.recorded import is_captured, is_recorded
from sj_shortcut.torch_model.sharding import is_sharded, lost_its_weights
from sj_shortcut.torch_model.warnings import ShortcutWarning
from sj_shortcut.torch_model.wrappers import (
    NO_DATA_PARALLEL,
    bare_model,
    find_compiled,
    is_checkpointed,
    is_compiled,
    without_checkpoints,
)

__all__ = [
    "NO_BACKWARD",
    "NO_DATA_PARALLEL",
    "Later",
    "ShortcutWarning",
    "backward_task",
    "bare_model",
    "did_you_mean",
    "ending_of",
    "find_compiled",
    "first_tensor",
    "gather_objects",
    "in_backward",
    "is_captured",
    "is_checkpointed",
    "is_compiled",
    "is_distributed",
    "is_plain",
    "is_recorded",
    "is_sharded",
    "joint_norm",
    "l2_norm",
    "lost_its_weights",
    "map_tensors",
    "modes_after_interrupts",
    "preserved",
    "rank",
    "require_module",
    "tensors_in",
    "untouched_rng",
    "wide_dtype",
    "without_checkpoints",
    "without_recomputing",
    "world_size",
]
