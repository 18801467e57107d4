"""Where images, truths and predictions come from: models on records, or files."""
