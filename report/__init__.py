"""One page that shows scores."""
