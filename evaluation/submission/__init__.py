"""Files that benchmark servers and other tools take, and the checks that they pass before they are written."""
