"""The verb `deploy`: a model in the folder that another server, a container engine or an init system loads as it is."""
