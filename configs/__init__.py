"""YAML files of experiments and label spaces."""
