"""The verb `data check`: what is wrong with a data set before anything is trained on it."""
