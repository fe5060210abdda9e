"""Files of a Hugging Face model folder, and where they come from."""
