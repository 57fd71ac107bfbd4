"""Which backbone and which strategy suit a data set, measured on it."""
