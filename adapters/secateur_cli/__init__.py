"""secateur for people: the command line `secateur run`, its configuration, progress and the report."""
