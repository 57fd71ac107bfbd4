"""The verbs `report` and `card`: what a finished run did and learnt, and what a model is, as a page for people."""
