"""Files of a Hugging Face model folder besides its weights."""
