"""llama.cpp in this process: its library, models, KV caches, samplers and images."""
