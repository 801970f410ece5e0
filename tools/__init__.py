"""Programs around data and weights."""
