"""Fewer hidden channels of MLPs and of the stem, fine-tuned: those that never fire, then those that matter least."""

from __future__ import annotations

from collections.abc import Sequence

from spikformer_deploy.base.errors import InputError
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
    *,
    shares: Sequence[float] = (),
    stems: bool = False,
) -> Tuned:
    """Cut as many hidden channels of a model's MLPs, or of its stem, away as accuracy allows.

    What loses accuracy is fine-tuned.

    model           of a family that prune takes
    training_images, validation_images  with labels; nothing is learnt from the latter
    shares          those to try; (): by bisection
    stems           whether a share is that of each layer inside the stem, instead of each MLP; of the others those go
                    that never fire
    Up to 2,048 training images say which channels go (see prune).  Which shares of them are tried: see next_share.
    Raises InputError as make_sparser, and ModelError for another family.
    """
    check_shares("--shares", shares)
    check_widths(model)
    in_order = tuple(sorted(map(float, shares)))
    asked = (in_order, stems)
    images = (training_images, validation_images)
    # biases are faster where spikes have a price, which they have not here
    search = Search("fewer_channels", model, *images, 0.0, tuning, asked, vector_factor=1.0)
    search.open()
    judging = picked(search.training, spread(len(search.training), JUDGING))

    def begun(before: Loaded, share: float) -> Loaded:
        of_blocks, of_stem = (0.0, share) if stems else (share, 0.0)
        file = search.folder / "cut.safetensors"
        return prune(before, judging, output=file, share=of_blocks, stem_share=of_stem, target=tuning.target).model

    return search.run(Kind("share", lambda rows: next_share(rows, in_order), begun, None))


def check_shares(option: str, shares: Sequence[float]) -> None:
    """Raise InputError, by the option's name, for shares of which one makes no sense."""
    for share in shares:
        if not 0 <= share < 1:
            raise InputError(option, f"{share} of the channels", "Give 0 to below 1.")


def next_share(rows: list[Tried], shares: Sequence[float] = ()) -> tuple[float, Tried] | None:
    """The share of the next stage and the stage that it starts from; None where there is no more to try.

    Of `shares`, ascending, one after the other until one does not hold.  Without them first 0: the channels that never
    fire; then by bisection between the largest share that holds and the smallest one that does not.  Each starts from
    the original.
    """
    if shares:
        left = [share for share in shares if share not in {row.setting for row in rows[1:]}]
        return (left[0], rows[0]) if left and all(row.holds for row in rows) else None
    if len(rows) == 1:
        return 0.0, rows[0]
    holding = max(row.setting for row in rows if row.holds)
    failed = min((row.setting for row in rows if not row.holds and row.setting > holding), default=1.0)
    return ((holding + failed) / 2, rows[0]) if failed - holding > NEAREST else None
