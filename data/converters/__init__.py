"""One module for each layout of labelled images: what to convert, and how an image becomes a record."""
