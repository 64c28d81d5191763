"""The float networks of the learned methods, layer by layer as published."""
