"""The verb `report`: what a finished run did and learnt, as one page for people."""
