"""The stateless sampler, patches and the streaming loader."""
