"""What makes a network cheaper at the same accuracy."""
