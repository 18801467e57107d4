"""What a SavedModel needs to be served: checked requests, chosen outputs, frozen weights, versions, warm-up."""
