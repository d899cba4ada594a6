"""Experiments of NNI: searches whose candidates are trials on its machines, and the tuning of whole runs.

candidate_trials    candidates of one step out, worths back, whatever fails on the way
tuner               GreedyTuner: a search as a tuner of NNI
candidate           the trial that judges one candidate
trials              what every trial does first and last
setting             an experiment's YAML file, NNI's own keys
manager             NNI's process: started, told where it is, ended
watching            what ends it when the process that started it was killed
following           until an experiment has come to its end
results             trials joined with what they really ran, and the front
"""
