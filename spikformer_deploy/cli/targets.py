"""The command `targets`: what there is, its numbers, and a file of one's own."""

from __future__ import annotations

import click

from spikformer_deploy.cli.options import as_json
from spikformer_deploy.cli.printing import print_json, print_line, print_tables


@click.command("targets")
@click.argument("name", required=False)
@click.option("--toml", "as_file", is_flag=True, help="Print NAME as a profile's file, to change and to use.")
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON schema of such files, for editors.")
@as_json
def targets_command(name: str | None, as_file: bool, as_schema: bool, as_json: bool) -> None:
    """List the targets, or every number of target NAME (or of a .toml file) with its kind and source."""
    if as_file + as_schema + as_json > 1:
        raise click.UsageError("--toml, --schema and --json exclude each other")
    if as_file and name is None:
        raise click.UsageError("--toml needs the NAME of a target")
    if as_schema and name is not None:
        raise click.UsageError("--schema is of all targets: it takes no NAME")
    from spikformer_deploy.chips.profile import load_profile
    from spikformer_deploy.chips.written import as_toml, schema
    from spikformer_deploy.report.targets import target_tables

    if as_file:
        print_line(as_toml(load_profile(str(name))).rstrip("\n"))
        return
    if as_schema:
        print_json(schema())
        return
    tables, values = target_tables(name)
    if as_json:
        print_json(values)
    else:
        print_tables(tables)
