"""The embedded model: its weights, its server inside this process, and LiteLLM's provider over it."""
