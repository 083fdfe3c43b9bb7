"""A censor for tests: what someone on the path, or someone who knocks, can tell of a tunnel."""
