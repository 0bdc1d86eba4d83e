"""What an export to Lava consists of besides the network: needs lava-nc and numpy only.

`spikdeploy export --to lava` copies this folder.  Lava imports the modules in processes/ by that name, so that nothing
here may be imported relative to a package.
"""
