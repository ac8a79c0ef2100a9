"""One module for each command; ``cli`` hands ``dualloop COMMAND`` to them."""
