"""The configuration: every key, its default and its meaning, and how a file becomes a checked one."""
