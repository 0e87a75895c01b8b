"""Everything about Hugging Face, so that nobody else must know: targets, modules, loading, saving, text."""
