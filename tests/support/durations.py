"""How long an image takes by the closed form, with how sure that is."""

from spikformer_deploy.accounting.energy import Duration
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.spread import spread


def duration(events: Events, network: Network, mapping: Mapping, profile: Profile) -> Duration:
    """By the closed form."""
    where = (events, network, mapping, profile)
    return Duration(estimate(*where), spread(*where))
