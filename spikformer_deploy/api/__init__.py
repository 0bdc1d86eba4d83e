"""What `import spikformer_deploy as sd` offers beside the functions of the rooms: the whole way in one call each."""
