"""Design spaces: every setting of a compiler against every other, and which of them are worth having."""
