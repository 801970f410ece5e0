"""How images are scored and mapped."""
