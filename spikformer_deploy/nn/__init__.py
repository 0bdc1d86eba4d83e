"""The models in PyTorch: LIF, spiking self-attention, the stems, Spikformer V1 and V2, and the published sizes."""
