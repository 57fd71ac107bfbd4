"""The verb `bench`: how fast a model answers here, on which execution provider, and with which settings faster."""
