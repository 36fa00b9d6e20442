"""Components: one module for each part of the stack. `registry` lists them."""
