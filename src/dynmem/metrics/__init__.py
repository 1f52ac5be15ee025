"""What a manager's status says as metrics of Prometheus: the families, and the text that scrapers read."""
