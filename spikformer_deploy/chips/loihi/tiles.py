"""Where cores are: tiles of a few cores in the mesh of a chip, chips in the mesh of a board."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.profile import Profile


def coordinates(profile: Profile, cores: Int) -> tuple[Int, Int]:
    """(x, y) of the tiles of global core numbers, in the mesh of all chips."""
    tiles_x = int(profile.chip.tiles_x)
    tiles_y = int(profile.chip.tiles_y)
    chip, core = np.divmod(cores, profile.cores_per_chip)
    tile = core // int(profile.chip.cores_per_tile)
    row, column = np.divmod(chip, int(profile.board.columns))
    return column * tiles_x + tile % tiles_x, row * tiles_y + tile // tiles_x
