"""Published systems as baselines, one a file: trained and run like our own branches."""
