"""Float graph -> integer network: build.py walks over the graph, and the files beside it make the populations."""
