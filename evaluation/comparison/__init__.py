"""Two evaluations side by side: differences by figure, class and image, with confidence intervals."""
