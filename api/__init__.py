"""The HTTP service stands here. Until it does, the commands and `ai_core.pipeline` are the way in."""
