"""Fewer hidden channels of the MLPs, with fine-tuning: those that never fire, then those that matter least."""

from __future__ import annotations

from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.optimization.prune import check_widths, prune
from spikformer_deploy.optimization.stages import Kind, Search, Tried, Tuned, Tuning, picked, spread

JUDGING = 2048
"""Training images that channels are judged by, at most."""
NEAREST = 0.25
"""Two shares, of which one holds and one does not, are not told apart below this difference."""


def fewer_channels(
    model: Loaded,
    training_images: ImageSet,
    validation_images: ImageSet,
    tuning: Tuning,
) -> Tuned:
    """Cut as many hidden channels of a model's MLPs away as accuracy allows, fine-tuned where that needs it.

    model           of a family that prune takes
    training_images, validation_images  with labels; nothing is learnt from the latter
    Up to 2,048 training images say which channels go (see prune).  Which shares of them are tried: see next_share.
    Raises InputError as make_sparser, and ModelError for another family.
    """
    check_widths(model)
    search = Search("fewer_channels", model, training_images, validation_images, 0.0, tuning)
    search.open()
    judging = picked(search.training, spread(len(search.training), JUDGING))

    def begun(before: Loaded, share: float) -> Loaded:
        return prune(before, judging, output=search.folder / "cut.safetensors", share=share, target=tuning.target).model

    return search.run(Kind("share", next_share, begun, None))


def next_share(rows: list[Tried]) -> tuple[float, Tried] | None:
    """The share of the next stage and the stage that it starts from; None where there is no more to try.

    First 0: the channels that never fire.  Then by bisection between the largest share that holds and the smallest one
    that does not; each starts from the original.
    """
    if len(rows) == 1:
        return 0.0, rows[0]
    holding = max(row.setting for row in rows if row.holds)
    failed = min((row.setting for row in rows if not row.holds and row.setting > holding), default=1.0)
    return ((holding + failed) / 2, rows[0]) if failed - holding > NEAREST else None
