"""The report of a run: sections, figures and tables, and the page that they stand on."""
