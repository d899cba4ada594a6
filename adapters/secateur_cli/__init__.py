"""secateur for people: the command line `secateur run` and its siblings.

settings    the configuration: every key, its default and its meaning
inputs      what a run begins with: images, the user's network
stages      what a run does, a function each
report      what is said of a run: sections, plots, tables
doctor      what may go wrong, found before it does
comparison  criteria, allocations, budgets and seeds under one schedule
figures     the figures of the papers, from runs of one's own
commands    a file for each command

What stands beside them is for all: wording, progress, the folder of a run.
"""
