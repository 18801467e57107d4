"""A web page on this machine that shows what a model sees in an image: the command `demo`."""
