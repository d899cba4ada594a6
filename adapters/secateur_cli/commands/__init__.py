"""The commands, one a module: run, search, plan show."""
