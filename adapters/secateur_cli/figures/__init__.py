"""The figures of the papers from our own runs: what is measured, apart from how it is drawn."""
