"""Built-in story world: texts, tasks and preferences without a download, and their exact evaluation."""
