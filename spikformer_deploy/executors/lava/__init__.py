"""Programs as Lava Processes, run by Lava's CPU models in a process of its own."""
