"""The stages of a run, a function each, what they share, and what is checked before the first of them."""
