"""The tables of handlers: each operation has one, and the way out of a refusal is read."""

from spikformer_deploy.graph import arithmetic, attentions, layers, layouts, neurons, operations, parts, pools

TABLES = (
    layouts.LAYOUTS,
    layers.LAYERS,
    pools.POOLS,
    neurons.NEURONS,
    arithmetic.ARITHMETIC,
    attentions.ATTENTIONS,
    parts.PARTS,
)


def test_no_operation_has_two_handlers() -> None:
    """A later table would replace the handler of an earlier one without a word."""
    names = [name for table in TABLES for name in table]
    assert len(names) == len(set(names))
    assert set(names) == operations.HANDLERS.keys()


def test_ways_out_are_of_operations_without_a_handler() -> None:
    assert not {f"aten.{name}" for name in operations.WAYS_OUT} & operations.HANDLERS.keys()


def test_what_reads_only_shapes_is_known() -> None:
    assert set(operations.READS_SHAPE_ONLY) <= operations.HANDLERS.keys()
